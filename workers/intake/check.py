"""Checking bytes from strangers, in child processes that may die of them.

    bytes ──▶ child: header ─▶ size, pixels, aspect ─▶ decode ──▶ Verdict
                └─ killed, or too slow ──▶ CheckDied, for exactly these bytes

The children are Celery's own process pool (billiard). They are spawned, not forked, have an
address-space limit, and neither torch nor the database in them.
"""

import resource
import threading
from dataclasses import dataclass
from typing import Any

from billiard import get_context
from billiard.exceptions import TimeLimitExceeded, WorkerLostError

from db.errors import CheckDied, ImageTooLarge, ImageUnreadable, ItemError
from db.verdicts import OK, Verdict
from workers import images
from workers.settings import IntakeSettings

#: How long the pool waits for a last word of a child that is gone.
LOST_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Limits:
    """What an image may be at most. Sizes in bytes and pixels; aspect is long by short side."""

    image_bytes: int
    pixels: int
    aspect: float


def check(data: bytes, limits: Limits) -> Verdict:
    """Measure and decode an image; what is wrong with it is the verdict, not an exception."""
    try:
        return _measure(data, limits)
    except ItemError as error:
        return Verdict(error.code, str(error))
    except MemoryError:
        return Verdict(ImageTooLarge.code, "decoding needs more memory than is allowed")


def _measure(data: bytes, limits: Limits) -> Verdict:
    if len(data) > limits.image_bytes:
        raise ImageTooLarge(f"{len(data)} bytes; at most {limits.image_bytes} are accepted")
    image = images.open_image(data)
    width, height = image.size
    if min(width, height) < 1:
        raise ImageUnreadable(f"{width}x{height} pixels are no image")
    if width * height > limits.pixels:
        raise ImageTooLarge(f"{width}x{height} pixels; at most {limits.pixels} are accepted")
    if max(width, height) > limits.aspect * min(width, height):
        raise ImageTooLarge(f"{width}x{height} is narrower than 1:{limits.aspect:g}")
    images.decode(data)
    kind = "JPEG" if image.format == "MPO" else image.format
    return Verdict(OK, None, kind, width, height)


class Checkers:
    """A pool of child processes that check images.

    Args:
        settings: Number of children, limits of an image, and of the child's time and memory.
    """

    def __init__(self, settings: IntakeSettings) -> None:
        self._limits = Limits(
            settings.max_image_bytes, settings.max_image_pixels, settings.max_image_aspect
        )
        # As many as there are children, so that nobody's time runs while he waits for a turn.
        self._turns = threading.BoundedSemaphore(settings.intake_children)
        self._patience_seconds = settings.check_seconds * 2 + 60
        self._pool: Any = get_context("spawn").Pool(
            settings.intake_children,
            initializer=_limit_memory,
            initargs=(settings.check_memory_bytes,),
            timeout=settings.check_seconds,
            lost_worker_timeout=LOST_SECONDS,
        )

    def check(self, data: bytes) -> Verdict:
        """Check bytes in a child.

        Raises:
            CheckDied: The child died on these bytes, or took too long.
        """
        with self._turns:
            pending = self._pool.apply_async(check, (data, self._limits))
            verdict: Verdict = self._result(pending)
        return verdict

    def _result(self, pending: Any) -> Any:
        try:
            return pending.get(self._patience_seconds)
        except Exception as wrapped:
            error = getattr(wrapped, "exc", wrapped)
            if isinstance(error, TimeLimitExceeded):
                raise CheckDied("checking the image took too long") from error
            if isinstance(error, WorkerLostError):
                raise CheckDied("the process that checked the image died") from error
            raise

    def close(self) -> None:
        """End the children."""
        self._pool.terminate()
        self._pool.join()


def _limit_memory(address_space_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (address_space_bytes, address_space_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
