"""Fair shares: how owners share something of which there is little.

One rule: nobody may take everything, so whoever comes next finds something free. An owner may have
more as long as it has less than what is free: the dynamic threshold of Choudhury and Hahne,
"Dynamic queue length thresholds for shared-memory packet switches" (IEEE/ACM Transactions on
Networking, 1998). One owner alone gets half, two get a third each, and so on.
"""

import itertools
import threading
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

#: What owners are told apart by.
Name = TypeVar("Name", bound=Hashable)


class Shares(Generic[Name]):
    """How much each owner has of `capacity`. Not thread-safe: its user holds a lock."""

    def __init__(self, capacity: int) -> None:
        self.free = capacity
        self.held: Counter[Name] = Counter()

    def allows(self, owner: Name, more: int = 1) -> bool:
        """True if the owner may have so many more."""
        held = self.held[owner]
        return held + more <= self.free if held else self.free >= 1

    def take(self, owner: Name) -> None:
        """Give one to the owner."""
        self.held[owner] += 1
        self.free -= 1

    def give_back(self, owner: Name) -> None:
        """Take one back."""
        self.held[owner] -= 1
        self.free += 1
        if not self.held[owner]:
            del self.held[owner]


class FairTurns:
    """So many turns at a time; a free one goes to the waiting owner with the fewest.

    Among equals it goes to the one whose last turn was longest ago. Thread-safe.
    """

    def __init__(self, turns: int) -> None:
        self._free, self._changed = turns, threading.Condition()
        self._held: Counter[int] = Counter()
        self._waiting: list[tuple[int, int]] = []
        self._numbers = itertools.count(1)
        #: Number of the last turn of each owner.
        self._last: Counter[int] = Counter()

    @contextmanager
    def holding(self, owner_id: int) -> Iterator[None]:
        """Wait for a turn, and have it inside the block."""
        with self._changed:
            self._wait(owner_id)
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._held[owner_id] -= 1
                self._changed.notify_all()

    def waiting(self, owner_id: int | None = None) -> int:
        """Return how many wait for a turn, of one owner or of all."""
        with self._changed:
            return sum(owner_id in (None, owner) for owner, _ in self._waiting)

    def _wait(self, owner_id: int) -> None:
        asked = owner_id, next(self._numbers)
        self._waiting.append(asked)
        self._changed.wait_for(lambda: self._free and self._first() == asked)
        self._waiting.remove(asked)
        self._free -= 1
        self._held[owner_id] += 1
        self._last[owner_id] = next(self._numbers)
        self._changed.notify_all()  # more than one turn may be free

    def _first(self) -> tuple[int, int]:
        return min(self._waiting, key=lambda one: (self._held[one[0]], self._last[one[0]], one[1]))
