"""How owners share threads, children and hosts: who comes next, and who waits."""

import itertools
import threading
from collections.abc import Callable

from tests import servers
from workers.intake.shares import FairThreads, FairTurns, HostTurns, Shares

ADA, BEN, CLEO = 1, 2, 3


def fill(shares: Shares, owner_id: int) -> int:
    """Take all that an owner may have."""
    for taken in itertools.count():
        if not shares.allows(owner_id):
            return taken
        shares.take(owner_id)
    raise AssertionError


def test_one_owner_takes_half_and_the_next_half_of_what_is_left() -> None:
    shares = Shares(32)

    assert [fill(shares, owner_id) for owner_id in (ADA, BEN, CLEO)] == [16, 8, 4]


def test_owners_that_come_and_go_end_with_equal_shares() -> None:
    shares = Shares(30)
    for owner_id in (ADA, BEN):
        fill(shares, owner_id)

    for _ in range(40):
        for owner_id in (ADA, BEN):
            shares.give_back(owner_id)
            fill(shares, BEN)
            fill(shares, ADA)

    assert shares.held == {ADA: 10, BEN: 10}
    assert shares.free == 10


def test_the_last_one_goes_to_whoever_has_none() -> None:
    shares = Shares(1)

    assert shares.allows(ADA)
    shares.take(ADA)
    assert not shares.allows(BEN)
    shares.give_back(ADA)
    assert shares.allows(BEN)


def in_order(turns: FairTurns, *owner_ids: int) -> list[int]:
    """Let owners wait for a single turn that is taken, in this order; return how they get it."""
    order: list[int] = []
    threads = []

    def wait(owner_id: int) -> None:
        with turns.holding(owner_id):
            order.append(owner_id)

    with turns.holding(owner_ids[0]):
        for number, owner_id in enumerate(owner_ids, 1):
            threads.append(threading.Thread(target=wait, args=(owner_id,)))
            threads[-1].start()
            servers.wait_until(lambda number=number: turns.waiting() == number)  # type: ignore[misc]
    for thread in threads:
        thread.join()
    return order


def test_a_turn_goes_to_the_owner_whose_last_was_longest_ago() -> None:
    assert in_order(FairTurns(1), ADA, ADA, ADA, BEN) == [BEN, ADA, ADA, ADA]
    assert in_order(FairTurns(1), ADA, ADA, BEN, BEN, CLEO) == [BEN, CLEO, ADA, BEN, ADA]


class Gate:
    """Work that begins, and waits until it is let through."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self._through = threading.Event()

    def work(self, name: str, *, blocks: bool = True) -> Callable[[], None]:
        def run() -> None:
            self.began.append(name)
            if blocks:
                self._through.wait()

        return run

    def open(self) -> None:
        self._through.set()


def test_one_owner_leaves_threads_for_the_next() -> None:
    gate, threads = Gate(), FairThreads(8, HostTurns(4), name="test")

    for number in range(20):
        threads.put(ADA, gate.work(f"ada {number}"))
    servers.wait_until(lambda: len(gate.began) == 4)
    threads.put(BEN, gate.work("ben", blocks=False))
    servers.wait_until(lambda: "ben" in gate.began)

    assert gate.began == ["ada 0", "ada 1", "ada 2", "ada 3", "ben"]
    gate.open()
    threads.close()
    assert len(gate.began) == 21


def test_a_host_without_a_free_turn_holds_no_thread() -> None:
    gate, hosts = Gate(), HostTurns(1)
    threads = FairThreads(4, hosts, name="test")
    hosts.take("slow.example")

    for number in range(8):
        threads.put(ADA, gate.work(f"slow {number}", blocks=False), host="slow.example")
    threads.put(ADA, gate.work("fast", blocks=False), host="fast.example")
    servers.wait_until(lambda: gate.began == ["fast"])

    hosts.give_back("slow.example")
    threads.close()
    assert sorted(gate.began[1:]) == [f"slow {number}" for number in range(8)]


def test_work_that_meets_a_busy_host_runs_again_when_it_has_a_turn() -> None:
    hosts, asked = HostTurns(1), list[bool]()
    threads = FairThreads(4, hosts, name="test")
    hosts.take("busy.example")

    def run() -> str | None:
        asked.append(hosts.take("busy.example"))
        return None if asked[-1] else "busy.example"

    threads.put(ADA, run)
    servers.wait_until(lambda: asked == [False])
    hosts.give_back("busy.example")
    threads.close()

    assert asked == [False, True]


def test_urgent_work_goes_first_within_the_share_of_its_owner() -> None:
    gate, threads = Gate(), FairThreads(2, HostTurns(1), name="test")

    threads.put(ADA, gate.work("first"))
    servers.wait_until(lambda: gate.began == ["first"])
    threads.put(ADA, gate.work("ordinary", blocks=False))
    for name in ("urgent", "urgent too"):
        threads.put(ADA, gate.work(name, blocks=False), is_urgent=True)
    threads.put(BEN, gate.work("another's", blocks=False))
    servers.wait_until(lambda: "another's" in gate.began)
    gate.open()
    threads.close()

    assert gate.began == ["first", "another's", "urgent", "urgent too", "ordinary"]
