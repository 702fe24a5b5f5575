"""Checks structures when they are submitted, in processes that may die of them.

A hostile schema may cost seconds or gigabytes: a child has limits of processor time and memory, and
dies instead of the API. What was checked is remembered, so that the items of a job whose schema is
the same cost nothing; owners take turns, and few of one wait.
"""

import math
import os
import queue
import resource
import select
import subprocess
import sys
import threading
import time

import orjson

from db.grammars import grammar
from db.shares import FairTurns
from db.vocabulary.errors import QuotaExceeded, RequestError
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
#: Structures whose check is remembered.
REMEMBERED = 1_000

turns = FairTurns(CHILDREN)
_lock = threading.Lock()
#: What is wrong with a structure; "" if it is good.
_errors: dict[Structure, str] = {}


def check_structure(structure: Structure, owner_id: int) -> None:
    """Refuse a structure with which no answer can be generated.

    Raises:
        RequestError: Says why; the field is the form of the structure.
        QuotaExceeded: Too many checks of the owner wait.
    """
    error = _errors.get(structure)
    if error is None:
        if turns.waiting(owner_id) >= MAX_WAITING:
            raise QuotaExceeded(
                "too many schemas and patterns wait for their check: send fewer at a time",
                quota="structure-checks",
                limit=MAX_WAITING,
                left=0,
            )
        with turns.holding(owner_id):
            error = _errors.get(structure)
            if error is None:
                error = _checked(structure)
                _remember(structure, error)
    if error:
        raise RequestError(error, field=structure.form)


def _remember(structure: Structure, error: str) -> None:
    with _lock:
        if len(_errors) >= REMEMBERED:
            del _errors[next(iter(_errors))]
        _errors[structure] = error


class _Child:
    """A process that checks one structure after the other; it ends with its parent."""

    def __init__(self) -> None:
        program = f"import sys; sys.path[:] = {sys.path!r}; {PROGRAM}"
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-P", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.checks = 0

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
_idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()


def _checked(structure: Structure) -> str:
    try:
        child = _idle.get_nowait()
    except queue.Empty:
        child = _Child()
    try:
        error = child.check(structure)
    except (TimeoutError, EOFError):
        child.end()
        return "it takes too much time or memory to prepare; make it smaller"
    except BaseException:
        child.end()
        raise
    if child.checks < CHECKS_OF_CHILD:
        _idle.put(child)
    else:
        child.end()
    return error


def main() -> None:
    """Check the structures on standard input; write what is wrong with each, as lines of JSON."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin.buffer:
        used = resource.getrusage(resource.RUSAGE_SELF)
        until = math.ceil(used.ru_utime + used.ru_stime + CPU_SECONDS)
        resource.setrlimit(resource.RLIMIT_CPU, (until, resource.RLIM_INFINITY))
        asked = orjson.loads(line)
        error = grammar.error_of(Structure(asked["form"], asked["text"]))
        sys.stdout.buffer.write(orjson.dumps(error) + b"\n")
        sys.stdout.buffer.flush()
