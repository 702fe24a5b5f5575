"""How owners share the threads of an intake: who comes next, and who waits."""

import threading
from collections.abc import Callable

from tests import servers
from workers.intake.threads import FairThreads, HostTurns

ADA, BEN = 1, 2


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


def test_who_waits_for_a_turn_gets_the_next_one_before_all_others() -> None:
    hosts, got = HostTurns(1), list[bool]()
    hosts.take("busy.example")
    waiting = threading.Thread(target=lambda: got.append(hosts.await_turn("busy.example", 60)))
    waiting.start()
    servers.wait_until(lambda: hosts.awaited("busy.example") == 1)

    hosts.give_back("busy.example")
    waiting.join()

    assert got == [True]
    assert not hosts.take("busy.example")
    assert not hosts.await_turn("busy.example", 0.01)
    hosts.give_back("busy.example")
    assert hosts.take("busy.example")


def test_a_turn_that_somebody_waits_for_is_given_to_nobody_else() -> None:
    hosts = HostTurns(2)
    hosts.take("busy.example")
    hosts.take("busy.example")
    waiting = threading.Thread(target=hosts.await_turn, args=("busy.example", 60))
    waiting.start()
    servers.wait_until(lambda: hosts.awaited("busy.example") == 1)

    assert not hosts.is_free("busy.example")
    hosts.give_back("busy.example")
    waiting.join()


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
