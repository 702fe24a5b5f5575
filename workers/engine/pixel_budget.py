"""A budget of pixels: how much the loaders of an engine decode at the same time.

A WebP of fifty bytes may have fifty million pixels, and a decoded pixel takes up to sixteen bytes
while it is decoded: without a bound, each loader may need most of a gigabyte.
"""

import ctypes
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

#: Whoever has decoded so many pixels gives the memory back to the system, which takes a moment.
TRIM_PIXELS = 8_000_000


class PixelBudget:
    """Lets threads decode in the order in which they ask, as far as the budget goes.

    Args:
        pixels: Most pixels at a time; one that needs more has all of them, alone.
    """

    def __init__(self, pixels: int) -> None:
        self._most = self._free = pixels
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    def waiting(self) -> int:
        """Return how many wait."""
        with self._changed:
            return len(self._waiting)

    @contextmanager
    def holding(self, pixels: int) -> Iterator[None]:
        """Wait until so many pixels may be decoded, and hold them inside the block."""
        wanted, ticket = min(pixels, self._most), object()
        with self._changed:
            self._waiting.append(ticket)
            self._changed.wait_for(lambda: self._waiting[0] is ticket and self._free >= wanted)
            self._waiting.popleft()
            self._free -= wanted
            self._changed.notify_all()
        try:
            yield
        finally:
            if pixels >= TRIM_PIXELS:
                give_memory_back()
            with self._changed:
                self._free += wanted
                self._changed.notify_all()


def give_memory_back() -> None:
    """Return freed memory to the system: the allocator keeps what large images have needed."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
