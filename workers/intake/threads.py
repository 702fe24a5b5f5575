"""The threads of an intake, which owners share fairly, and the turns of hosts."""

import itertools
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from db.shares import Shares


class HostTurns:
    """So many requests to a host at a time. Thread-safe.

    Attributes:
        changed: Notified when a turn was given back.
    """

    def __init__(self, per_host: int) -> None:
        self._per_host = per_host
        self._taken: Counter[str] = Counter()
        self._awaited: Counter[str] = Counter()
        self.changed = threading.Condition()

    def is_free(self, host: str) -> bool:
        """True if a request to the host may begin, and nobody waits for one."""
        with self.changed:
            return self._taken[host] + self._awaited[host] < self._per_host

    def take(self, host: str) -> bool:
        """Take a turn. Returns False if there is none."""
        with self.changed:
            if not self.is_free(host):
                return False
            self._taken[host] += 1
            return True

    def await_turn(self, host: str, seconds: float) -> bool:
        """Take the next turn there is, before all others. False if there was none in time."""
        with self.changed:
            self._awaited[host] += 1
            try:
                has_turn = self.changed.wait_for(
                    lambda: self._taken[host] < self._per_host, max(0.0, seconds)
                )
                self._taken[host] += has_turn
            finally:
                self._awaited[host] -= 1
                if not self._awaited[host]:
                    del self._awaited[host]
                self.changed.notify_all()
        return has_turn

    def awaited(self, host: str) -> int:
        """Return how many wait for a turn."""
        with self.changed:
            return self._awaited[host]

    def give_back(self, host: str) -> None:
        """Give a turn back."""
        with self.changed:
            self._taken[host] -= 1
            if not self._taken[host]:
                del self._taken[host]
            self.changed.notify_all()


@dataclass(eq=False, slots=True)
class _Work:
    """Work of an owner, and the host that it begins with."""

    run: Callable[[], str | None]
    host: str | None
    is_urgent: bool


@dataclass(slots=True)
class _Queue:
    """What an owner waits for, and the number of its last start."""

    waiting: deque[_Work] = field(default_factory=deque)
    last: int = 0


class FairThreads:
    """Threads that many owners share, by the rule of db/shares.py.

    A free thread goes to the owner that has the fewest. Work whose host has no free turn waits
    without a thread.

    Args:
        threads: Number of threads.
        hosts: Turns of hosts.
    """

    def __init__(self, threads: int, hosts: HostTurns, *, name: str) -> None:
        self._hosts, self._changed = hosts, hosts.changed
        self._shares: Shares[int] = Shares(threads)
        self._queues: dict[int, _Queue] = {}
        self._numbers = itertools.count(1)
        self._is_closing = False
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}") for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def put(
        self,
        owner_id: int,
        run: Callable[[], str | None],
        *,
        host: str | None = None,
        is_urgent: bool = False,
    ) -> None:
        """Queue work.

        Args:
            run: Must not raise. It may return a host: then it is run again as soon as that host
                has a free turn.
            host: The host that it begins with, or None.
            is_urgent: True if it goes before other work of its owner.
        """
        with self._changed:
            waiting = self._queues.setdefault(owner_id, _Queue()).waiting
            ordinary = (n for n, work in enumerate(waiting) if is_urgent and not work.is_urgent)
            waiting.insert(next(ordinary, len(waiting)), _Work(run, host, is_urgent))
            self._changed.notify()

    def close(self) -> None:
        """Wait until all work is done."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while found := self._next():
            owner_id, work = found
            work.host = work.run()
            with self._changed:
                self._shares.give_back(owner_id)
                if work.host is not None:
                    self._queues.setdefault(owner_id, _Queue()).waiting.appendleft(work)
                self._changed.notify_all()

    def _next(self) -> tuple[int, _Work] | None:
        """Wait for work; None if there will be no more."""
        with self._changed:
            while not (found := self._choose()):
                if self._is_closing and not self._queues and not self._shares.held:
                    return None
                self._changed.wait()
            self._shares.take(found[0])
            return found

    def _choose(self) -> tuple[int, _Work] | None:
        held = self._shares.held
        by_share = sorted(self._queues, key=lambda one: (held[one], self._queues[one].last))
        for owner_id in by_share:
            queue = self._queues[owner_id]
            if not self._shares.allows(owner_id):
                continue
            for work in queue.waiting:
                if work.host is None or self._hosts.is_free(work.host):
                    queue.waiting.remove(work)
                    queue.last = next(self._numbers)
                    if not queue.waiting:
                        del self._queues[owner_id]
                    return owner_id, work
        return None
