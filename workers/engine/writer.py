"""What becomes of items: written soon after it is known, many in one transaction."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from db import failpoints
from db.errors import IdefiqError
from db.leases import Failure, Lease
from db.states import Origin
from workers.ends import LeaseEnds
from workers.session import Session

#: Answers that come within this time are written together, unless the device has nothing to do.
GATHER_SECONDS = 0.05
#: Most answers in one transaction.
MOST_WRITTEN = 256


@dataclass(frozen=True, slots=True)
class Ready:
    """An answer as it is stored."""

    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Back:
    """The item is given back, and due again so much later."""

    wait_seconds: float = 0.0


End = Ready | Back | IdefiqError
#: An item whose time in this process is over, with the session that holds it.
Ended = tuple[Lease, str, End]

log = logging.getLogger(__name__)


class Writer:
    """Writes ends in a thread of its own.

    Args:
        is_idle: Whether nothing more is to be expected soon.
        on_written: Told how many were written, or given up.
    """

    def __init__(
        self,
        ends: LeaseEnds,
        session: Session,
        *,
        is_idle: Callable[[], bool],
        on_written: Callable[[int], None],
    ) -> None:
        self._ends, self._session = ends, session
        self._is_idle, self._on_written = is_idle, on_written
        self._ended: queue.SimpleQueue[Ended | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="write")
        self._thread.start()

    def put(self, lease: Lease, session: str, end: End) -> None:
        """Have it written soon. Never blocks."""
        self._ended.put((lease, session, end))

    def close(self) -> None:
        """Write what has been put."""
        self._ended.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._ended.get()) is not None:
            gathered, is_last = self._gather(first)
            for session in {session for _, session, _ in gathered}:
                self._write(session, [(a, c) for a, b, c in gathered if b == session])
            self._on_written(len(gathered))
            if is_last:
                return

    def _gather(self, first: Ended) -> tuple[list[Ended], bool]:
        gathered = [first]
        until = time.monotonic() + GATHER_SECONDS
        while len(gathered) < MOST_WRITTEN:
            is_awaited = gathered[-1][0].origin is Origin.CHAT or self._is_idle()
            wait = 0.0 if is_awaited else max(until - time.monotonic(), 0.0)
            try:
                one = self._ended.get(timeout=wait)
            except queue.Empty:
                return gathered, False
            if one is None:
                return gathered, True
            gathered.append(one)
        return gathered, False

    def _write(self, session: str, ended: Sequence[tuple[Lease, End]]) -> None:
        answers = [(lease, one.record) for lease, one in ended if isinstance(one, Ready)]
        failures = [Failure(lease, one) for lease, one in ended if isinstance(one, IdefiqError)]
        back: dict[float, list[Lease]] = {}
        for lease, one in ended:
            if isinstance(one, Back):
                back.setdefault(one.wait_seconds, []).append(lease)
        try:
            failpoints.reach("generated", ended)
            self._ends.write(session, answers=answers, failures=failures)
            for wait_seconds, leases in back.items():
                self._ends.release(session, leases, wait_seconds=wait_seconds)
        except Exception as error:  # what is not written is rescued; see ends.py
            log.warning("%d ends were not written: %s", len(ended), error)
            self._session.abandon(session)
