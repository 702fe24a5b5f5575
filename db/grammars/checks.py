"""Checks structures when they are submitted, in a process of their own.

A hostile schema may cost seconds or gigabytes: the child has limits of processor time and memory,
and dies instead of the API. What was checked is remembered, so that the items of a job whose
schema is the same cost nothing; owners take turns.
"""

import resource
import subprocess
import sys
import threading

import orjson

from db.grammars import grammar
from db.shares import FairTurns
from db.vocabulary.errors import RequestError
from db.vocabulary.structures import Structure

#: Processes that check at the same time.
CHILDREN = 2
#: Processor time and memory of one; those of a usual schema are a tenth of it.
CPU_SECONDS, MEMORY_BYTES = 2, 2 * 2**30
#: On a busy machine it may take longer than its processor time.
WALL_SECONDS = 60.0

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
    """
    error = _errors.get(structure)
    if error is None:
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


def _checked(structure: Structure) -> str:
    asked = orjson.dumps({"form": structure.form, "text": structure.text})
    command = [sys.executable, "-P", "-c", f"import sys; sys.path[:] = {sys.path!r}; {PROGRAM}"]
    try:
        child = subprocess.run(  # noqa: S603 - our own module
            command,
            input=asked,
            capture_output=True,
            timeout=WALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "it takes too long to prepare; make it smaller"
    if child.returncode:
        return "it takes too much time or memory to prepare; make it smaller"
    return child.stdout.decode()


def main() -> None:
    """Check the structure on standard input. Writes its error, or nothing, to standard output."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    asked = orjson.loads(sys.stdin.buffer.read())
    sys.stdout.write(grammar.error_of(Structure(asked["form"], asked["text"])))
