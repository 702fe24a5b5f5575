"""Checks of untrusted image bytes, in child processes that may die of them.

    bytes ──▶ child: header ─▶ size, pixels, aspect ─▶ decode ──▶ CheckResult
                └─ killed, or too slow ──▶ CheckDied, for exactly these bytes

Each child has a pipe of its own: nothing is shared that one could take with it when it dies. They
are spawned, not forked, have an address-space limit, and neither torch nor the database in them.
"""

import contextlib
import ctypes
import math
import multiprocessing
import os
import queue
import resource
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection

from db.images.known_images import OK, CheckResult
from db.shares import FairTurns
from db.vocabulary.errors import CheckDied, EngineError, ImageTooLarge, ImageUnreadable, ItemError
from workers import images, svg
from workers.intake.structure import check_structure
from workers.settings import IntakeSettings

#: Longest wait for a child to begin.
START_SECONDS = 60.0
#: A check may take this many times its processor time, for example while the machine is busy.
WALL_FACTOR = 4.0
#: Longest wait for the exit status of a child that has closed its pipe.
END_SECONDS = 5.0
#: Of prctl(2): the signal that a child gets when the thread that started it ends.
PR_SET_PDEATHSIG = 1
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
    check_structure(data)  # first, because reading the header already walks over many parts
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
    """Child processes that check images and draw SVGs, one at a time each, owners in turn.

    A child ends when its parent does, however that ends, and when an image has used up its
    processor time; on a busy machine that may take WALL_FACTOR times as long.

    Args:
        settings: Number of children, limits of an image, and of the child's time and memory.
    """

    def __init__(self, settings: IntakeSettings) -> None:
        self._settings = settings
        self._limits = ImageLimits(
            settings.max_image_bytes, settings.max_image_pixels, settings.max_image_aspect
        )
        # Children end with the thread that has started them, so one thread starts all.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="children")
        self._turns = FairTurns(settings.intake_children)
        #: The one used last comes first, so that few of many are busy.
        self.idle: queue.LifoQueue[_Child] = queue.LifoQueue()
        for _ in range(settings.intake_children):
            self.idle.put(self._start())

    def _start(self) -> "_Child":
        return self._starter.submit(_Child, self._settings.check_memory_bytes).result()

    def waiting(self) -> int:
        """Return how many checks wait for a child."""
        return self._turns.waiting()

    def check(self, owner_id: int, data: bytes) -> CheckResult:
        """Check bytes of an owner in a child; see `_do`."""
        check_result = self._do("check", owner_id, data)
        assert isinstance(check_result, CheckResult)
        return check_result

    def draw(self, owner_id: int, data: bytes) -> bytes | CheckResult:
        """Draw an SVG of an owner in a child; see `_do`."""
        return self._do("draw", owner_id, data)

    def _do(self, work: str, owner_id: int, data: bytes) -> bytes | CheckResult:
        """Run one piece of work in a child, when it is the owner's turn.

        Raises:
            CheckDied: The child died on these bytes, or took too long.
            EngineError: There was no child to be had.
        """
        with self._turns.holding(owner_id):
            child = self.idle.get()
            try:
                if not child.is_alive():  # it died of something else, while it had nothing to do
                    child = self._replaced(child)
                return child.do(work, data, self._limits, self._settings.check_seconds)
            finally:
                self.idle.put(child)

    def _replaced(self, child: "_Child") -> "_Child":
        child.end()
        return self._start()

    def close(self) -> None:
        """End the children."""
        for _ in range(self._settings.intake_children):
            self.idle.get().end()
        self._starter.shutdown()


class _Child:
    """One child process and the pipe to it."""

    def __init__(self, memory_bytes: int) -> None:
        self._pipe, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(
            target=_serve,
            args=(theirs, memory_bytes, os.getpid()),
            name="check",
            daemon=True,
        )
        self.process.start()
        self._is_ready = False
        theirs.close()

    def is_alive(self) -> bool:
        """True if the child can take work."""
        return self.process.is_alive()

    def do(
        self, work: str, data: bytes, limits: ImageLimits, seconds: float
    ) -> bytes | CheckResult:
        """See Checkers; after CheckDied this child is dead."""
        late = threading.Event()

        def end_late() -> None:
            late.set()
            self.process.kill()

        self._wait_until_ready()
        timer = threading.Timer(seconds * WALL_FACTOR, end_late)
        try:
            timer.start()
            try:
                self._pipe.send((work, data, limits, seconds))
                done: bytes | CheckResult = self._pipe.recv()
            finally:
                timer.cancel()
        except (EOFError, OSError) as error:
            self.process.join(END_SECONDS)
            is_late = late.is_set() or self.process.exitcode == -signal.SIGXCPU
            self.end()
            if is_late:
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
                self.process.kill()
            self._pipe.recv()
        except (EOFError, OSError) as error:
            self.end()
            raise EngineError("a process that checks images has not started") from error
        self._is_ready = True

    def end(self) -> None:
        """Kill the child."""
        self._pipe.close()
        self.process.kill()
        self.process.join()


def _serve(pipe: Connection, memory_bytes: int, parent: int) -> None:
    """Main loop of a child, until its parent is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before that
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(EOFError, OSError):
        pipe.send("ready")
        while True:
            work, data, limits, seconds = pipe.recv()
            used = resource.getrusage(resource.RUSAGE_SELF)
            until = math.ceil(used.ru_utime + used.ru_stime + seconds)
            resource.setrlimit(resource.RLIMIT_CPU, (until, resource.RLIM_INFINITY))
            pipe.send(_WORK[work](data, limits))
