"""How owners share something of which there is little: who comes next, and who waits."""

import itertools
import threading

from db.shares import FairTurns, Shares
from tests import servers

ADA, BEN, CLEO = 1, 2, 3


def fill(shares: Shares[int], owner_id: int) -> int:
    """Take all that an owner may have."""
    for taken in itertools.count():
        if not shares.allows(owner_id):
            return taken
        shares.take(owner_id)
    raise AssertionError


def test_one_owner_takes_half_and_the_next_half_of_what_is_left() -> None:
    shares = Shares[int](32)

    assert [fill(shares, owner_id) for owner_id in (ADA, BEN, CLEO)] == [16, 8, 4]


def test_owners_that_come_and_go_end_with_equal_shares() -> None:
    shares = Shares[int](30)
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
    shares = Shares[int](1)

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
