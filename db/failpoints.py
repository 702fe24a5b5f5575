"""Named places where a test lets a process die, stop, hang or fail.

    IDEFIQ_FAILPOINTS='{"claimed": "kill"}'               dies the first time it gets there
                      '{"claimed": "kill:3"}'             the third time
                      '{"generating": "hang:1:prompt 7"}' the first time that this is about it

Crashes can so be tried one by one, and not only by chance. Off, a place costs one `if`.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from db.vocabulary.errors import EngineError, RequestError, StorageError

#: All places, in the order in which an item passes them.
PLACES = (
    "submitted",  # API: the job is committed, no worker is woken
    "imported",  # upkeep: a page of a spool is committed, the next is not
    "sealed",  # upkeep: the job is sealed, its spool still there
    "claimed",  # a worker: the claim is committed
    "stored",  # intake: the bytes are in the blob store, not in the database
    "checked",  # intake: the check result is known, not written
    "decoded",  # engine: images are loaded
    "generating",  # engine: the batch is on the device
    "generated",  # engine: answers are there, nothing is written
    "writing",  # a worker: results are written, not committed
    "written",  # a worker: results are committed, no notice is sent yet
    "rescuing",  # a worker: dead sessions are found, nothing is taken back
    "collected",  # upkeep: the results object is stored, its key is not
)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _hang() -> None:
    while True:
        time.sleep(3600)


def _break() -> None:
    raise EngineError("a failpoint says so")


def _lose() -> None:
    raise StorageError("a failpoint says so")


def _exhaust() -> None:
    raise MemoryError("a failpoint says so")


ACTIONS: Mapping[str, Callable[[], None]] = {
    "kill": _die,
    "stop": _stop,
    "hang": _hang,
    "break": _break,
    "lose": _lose,
    "exhaust": _exhaust,
}


@dataclass
class _Failpoint:
    action: Callable[[], None]
    #: Acts when this has come down to nothing; from then on each time, if it was 0.
    left: int
    items: str


_armed: dict[str, _Failpoint] = {}


def arm(spec: Mapping[str, str]) -> None:
    """Arm places as `ACTION[:TIMES[:ITEMS]]`; TIMES 0 acts each time. Replaces what was armed.

    Raises:
        RequestError: There is no such place or action.
    """
    _armed.clear()
    for place, action_spec in spec.items():
        action, _, rest = action_spec.partition(":")
        times, _, items = rest.partition(":")
        if place not in PLACES or action not in ACTIONS or not (times or "1").isdecimal():
            raise RequestError(f"no failpoint {place}={action_spec}", field="failpoints")
        _armed[place] = _Failpoint(ACTIONS[action], int(times or "1"), items)


def hook(place: str, action: Callable[[], None]) -> None:
    """Call `action` once, the next time the place is reached. For tests."""
    _armed[place] = _Failpoint(action, 1, "")


def trigger(place: str, items: object = "") -> None:
    """Trigger failpoint `place` if it is armed for one of `items`."""
    if _armed:
        _act(place, items)


def _act(place: str, items: object) -> None:
    found = _armed.get(place)
    if found is None or found.items not in str(items):
        return
    if found.left == 1:
        del _armed[place]
    elif found.left > 1:
        found.left -= 1
        return
    found.action()
