"""Locks by name, each of which exists only while somebody holds it or waits for it."""

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class _CountedLock:
    """A lock, and the number of threads that hold it or wait for it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0


class NamedLocks:
    """Locks by name. Thread-safe."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, _CountedLock] = {}
        self._guard = threading.Lock()

    def users(self) -> int:
        """Return the number of threads that hold a lock or wait for one."""
        with self._guard:
            return sum(counted.users for counted in self._locks.values())

    @contextmanager
    def holding(self, name: Hashable) -> Iterator[None]:
        """Hold the lock of a name inside the block."""
        with self._guard:
            counted = self._locks.setdefault(name, _CountedLock())
            counted.users += 1
        try:
            with counted.lock:
                yield
        finally:
            with self._guard:
                counted.users -= 1
                # Not earlier: a new thread would get another lock than those that wait.
                if not counted.users:
                    del self._locks[name]
