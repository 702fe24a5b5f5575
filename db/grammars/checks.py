"""Checks structures when they are submitted, in processes that may die of them.

A hostile schema may cost seconds or gigabytes: a child has limits of processor time and memory, and
dies instead of the API. What was checked is remembered, so that the items of a job whose schema is
the same cost nothing; owners take turns, and few of one wait.
"""

import contextlib
import hashlib
import math
import os
import queue
import resource
import select
import signal
import subprocess
import sys
import threading
import time

import orjson

from db.grammars import grammar
from db.shares import FairTurns
from db.vocabulary.errors import QuotaExceeded, RequestError, StorageError
from db.vocabulary.structures import Structure

#: Processes that check at the same time.
CHILDREN = 2
#: Most checks of an owner that wait: each holds a thread of the API.
MAX_WAITING = 8
#: Processor time of a check and memory of a child; a usual schema needs a hundredth of it.
CPU_SECONDS, MEMORY_BYTES = 2, 2 * 2**30
#: On a busy machine a check may take longer than its processor time.
WALL_SECONDS = 60.0
#: Checks of a child, which then makes way for a new one.
CHECKS_OF_CHILD = 1_000
#: What a child runs, with the path of this process.
PROGRAM = f"from {__name__} import main; main()"
#: Checks that are remembered.
REMEMBERED = 10_000
#: Characters of an error; it may repeat what was sent.
MAX_ERROR = 500

turns = FairTurns(CHILDREN)
_lock = threading.Lock()
#: What is wrong with a structure, by its digest; "" if it is good.
_errors: dict[bytes, str] = {}


def check_structure(structure: Structure, owner_id: int) -> None:
    """Refuse a structure with which no answer can be generated.

    Raises:
        RequestError: Says why; the field is the form of the structure.
        QuotaExceeded: Too many checks of the owner wait.
        StorageError: It cannot be checked now.
    """
    key = hashlib.sha256(f"{structure.form} {structure.text}".encode()).digest()
    error = _errors.get(key)
    if error is None:
        if turns.waiting(owner_id) >= MAX_WAITING:
            raise QuotaExceeded(
                "too many schemas and patterns wait for their check: send fewer at a time",
                quota="structure-checks",
                limit=MAX_WAITING,
                left=0,
            )
        with turns.holding(owner_id):
            error = _errors.get(key)
            if error is None:
                error = _checked(structure)
                _remember(key, error)
    if error:
        raise RequestError(error, field=structure.form)


def _remember(key: bytes, error: str) -> None:
    with _lock:
        if len(_errors) >= REMEMBERED:
            del _errors[next(iter(_errors))]
        _errors[key] = error


class Child:
    """A process that checks one structure after the other; it ends with its parent."""

    def __init__(self) -> None:
        program = f"import sys; sys.path[:] = {sys.path!r}; {PROGRAM}"
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-P", "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # of allocators and panics, which the exit status says too
        )
        self.pid, self.checks = self._process.pid, 0

    def check(self, structure: Structure) -> str:
        """Return what is wrong with a structure, "" if it is good.

        Raises:
            TimeoutError: The child takes too long.
            EOFError: It has died.
        """
        self.checks += 1
        assert self._process.stdin
        asked = orjson.dumps({"form": structure.form, "text": structure.text})
        try:
            self._process.stdin.write(asked + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as broken:
            raise EOFError from broken
        error: str = orjson.loads(self._line(time.monotonic() + WALL_SECONDS))
        return error

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()

    def _line(self, deadline: float) -> bytes:
        assert self._process.stdout
        line = b""
        while not line.endswith(b"\n"):
            left = max(deadline - time.monotonic(), 0.0)
            if not select.select([self._process.stdout], [], [], left)[0]:
                raise TimeoutError
            if not (piece := os.read(self._process.stdout.fileno(), 2**16)):
                raise EOFError
            line += piece
        return line


#: Children that do nothing; started when they are needed.
_idle: queue.SimpleQueue[Child] = queue.SimpleQueue()


def _checked(structure: Structure) -> str:
    """Return what is wrong with a structure.

    Raises:
        StorageError: No child could check it.
    """
    try:
        with contextlib.suppress(EOFError, queue.Empty):  # it may have died of something else
            return _checked_by(_idle.get_nowait(), structure)
        return _checked_by(Child(), structure)
    except EOFError:
        return "it takes too much time or memory to prepare; make it smaller"
    except OSError as error:  # TimeoutError is one
        raise StorageError("schemas and patterns cannot be checked now; try again") from error


def _checked_by(child: Child, structure: Structure) -> str:
    try:
        error = child.check(structure)
    except BaseException:
        child.end()
        raise
    if child.checks < CHECKS_OF_CHILD:
        _idle.put(child)
    else:
        child.end()
    return error


def main() -> None:
    """Check the structures on standard input; write what is wrong with each, as lines of JSON.

    It ends when standard input does, and so with its parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    _limit(resource.RLIMIT_AS, MEMORY_BYTES)
    _limit(resource.RLIMIT_CORE, 0)
    for line in sys.stdin.buffer:
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime + CPU_SECONDS))
        asked = orjson.loads(line)
        try:
            error = grammar.error_of(Structure(asked["form"], asked["text"]))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as raised:
            error = f"it cannot be read: {raised}"
        sys.stdout.buffer.write(orjson.dumps(error[:MAX_ERROR]) + b"\n")
        sys.stdout.buffer.flush()


def _limit(kind: int, most: int) -> None:
    """Set a limit of this process, within the one that it has."""
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
