"""Checks of untrusted image bytes, in child processes that may die of them.

    bytes ──▶ child: header ─▶ size, pixels, aspect ─▶ decode ──▶ CheckResult
                └─ killed, or too slow ──▶ CheckDied, for exactly these bytes

Each child has a pipe of its own: nothing is shared that one could take with it when it dies. They
are spawned, not forked, have an address-space limit, and neither torch nor the database in them.
"""

import contextlib
import multiprocessing
import queue
import resource
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

from db.errors import CheckDied, EngineError, ImageTooLarge, ImageUnreadable, ItemError
from db.known_images import OK, CheckResult
from workers import images, svg
from workers.settings import IntakeSettings

#: Longest wait for a child to begin.
START_SECONDS = 60.0
_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Limits of an image. Sizes in bytes and pixels; aspect is long by short side."""

    image_bytes: int
    pixels: int
    aspect: float


def check(data: bytes, limits: ImageLimits) -> CheckResult:
    """Measure and decode an image. A bad image is a result, not an exception."""
    try:
        return _measure(data, limits)
    except ItemError as error:
        return CheckResult(error.code, str(error))
    except MemoryError:
        return CheckResult(ImageTooLarge.code, "decoding needs more memory than is allowed")


def _measure(data: bytes, limits: ImageLimits) -> CheckResult:
    if len(data) > limits.image_bytes:
        raise ImageTooLarge(f"{len(data)} bytes; the limit is {limits.image_bytes}")
    image = images.open_image(data)
    width, height = image.size
    if min(width, height) < 1:
        raise ImageUnreadable(f"{width}x{height} pixels are not an image")
    if width * height > limits.pixels:
        raise ImageTooLarge(f"{width}x{height} pixels; the limit is {limits.pixels}")
    if max(width, height) > limits.aspect * min(width, height):
        raise ImageTooLarge(f"{width}x{height} is narrower than 1:{limits.aspect:g}")
    images.decode(data)
    kind = "JPEG" if image.format == "MPO" else image.format
    return CheckResult(OK, None, kind, width, height)


def draw(data: bytes, limits: ImageLimits) -> bytes | CheckResult:
    """Draw an SVG as a PNG. A bad SVG is a result, not an exception."""
    try:
        if len(data) > limits.image_bytes:
            raise ImageTooLarge(f"{len(data)} bytes; the limit is {limits.image_bytes}")
        return svg.rasterise(data)
    except ItemError as error:
        return CheckResult(error.code, str(error))
    except MemoryError:
        return CheckResult(ImageTooLarge.code, "drawing needs more memory than is allowed")


#: What a child can be asked to do.
_WORK: dict[str, Callable[[bytes, ImageLimits], bytes | CheckResult]] = {
    "check": check,
    "draw": draw,
}


class Checkers:
    """Child processes that check images and draw SVGs, one at a time each.

    Args:
        settings: Number of children, limits of an image, and of the child's time and memory.
    """

    def __init__(self, settings: IntakeSettings) -> None:
        self._settings = settings
        self._limits = ImageLimits(
            settings.max_image_bytes, settings.max_image_pixels, settings.max_image_aspect
        )
        #: The one used last comes first, so that few of many are busy.
        self._idle: queue.LifoQueue[_Child] = queue.LifoQueue()
        for _ in range(settings.intake_children):
            self._idle.put(_Child(settings.check_memory_bytes))

    def check(self, data: bytes) -> CheckResult:
        """Check bytes in a child; see `_do`."""
        check_result = self._do("check", data)
        assert isinstance(check_result, CheckResult)
        return check_result

    def draw(self, data: bytes) -> bytes | CheckResult:
        """Draw an SVG in a child; see `_do`."""
        return self._do("draw", data)

    def _do(self, work: str, data: bytes) -> bytes | CheckResult:
        """Run one piece of work in a child.

        Raises:
            CheckDied: The child died on these bytes, or took too long.
            EngineError: There was no child to be had.
        """
        child = self._idle.get()
        try:
            if not child.is_alive():  # it died of something else, while it had nothing to do
                child = self._replaced(child)
            return child.do(work, data, self._limits, self._settings.check_seconds)
        finally:
            self._idle.put(child)

    def _replaced(self, child: "_Child") -> "_Child":
        child.end()
        return _Child(self._settings.check_memory_bytes)

    def close(self) -> None:
        """End the children."""
        for _ in range(self._settings.intake_children):
            self._idle.get().end()


class _Child:
    """One child process and the pipe to it."""

    def __init__(self, memory_bytes: int) -> None:
        self._pipe, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(
            target=_serve, args=(theirs, memory_bytes), name="check", daemon=True
        )
        self._process.start()
        self._is_ready = False
        theirs.close()

    def is_alive(self) -> bool:
        """True if the child can take work."""
        return self._process.is_alive()

    def do(
        self, work: str, data: bytes, limits: ImageLimits, seconds: float
    ) -> bytes | CheckResult:
        """See Checkers; after CheckDied this child is dead."""
        late = threading.Event()

        def end_late() -> None:
            late.set()
            self._process.kill()

        self._wait_until_ready()
        timer = threading.Timer(seconds, end_late)
        try:
            timer.start()
            try:
                self._pipe.send((work, data, limits))
                done: bytes | CheckResult = self._pipe.recv()
            finally:
                timer.cancel()
        except (EOFError, OSError) as error:
            self.end()
            if late.is_set():
                raise CheckDied("checking the image took too long") from error
            raise CheckDied("the process that checked the image died") from error
        return done

    def _wait_until_ready(self) -> None:
        """Wait for the child's start, whose time is charged to no image.

        Raises:
            EngineError: It has not started.
        """
        if self._is_ready:
            return
        try:
            if not self._pipe.poll(START_SECONDS):
                self._process.kill()
            self._pipe.recv()
        except (EOFError, OSError) as error:
            self.end()
            raise EngineError("a process that checks images has not started") from error
        self._is_ready = True

    def end(self) -> None:
        """Kill the child."""
        self._pipe.close()
        self._process.kill()
        self._process.join()


def _serve(pipe: Connection, memory_bytes: int) -> None:
    """Main loop of a child, until its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(EOFError, OSError):
        pipe.send("ready")
        while True:
            work, data, limits = pipe.recv()
            pipe.send(_WORK[work](data, limits))
