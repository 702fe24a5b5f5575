"""The result writer: writes answers and errors soon after they exist, many in a transaction."""

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
from db.states import SourceApi
from workers.lease_writer import LeaseWriter
from workers.session import Session

#: Answers within this time are written together, unless the device is idle or a caller waits.
GATHER_SECONDS = 0.05
#: Most answers in one transaction.
MAX_ANSWERS = 256


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer as the JSON that is stored."""

    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Released:
    """The item goes back to the queue, due after `wait_seconds`."""

    wait_seconds: float = 0.0


ItemEnd = StoredAnswer | Released | IdefiqError
#: An item, the session that holds its lease, and how it ends.
EndedItem = tuple[Lease, str, ItemEnd]

log = logging.getLogger(__name__)


class ResultWriter:
    """Writes how items end, in a thread of its own.

    Args:
        is_idle: Returns True if no more results are to be expected soon.
        on_written: Called with the number of items that were written, or given up.
    """

    def __init__(
        self,
        lease_writer: LeaseWriter,
        session: Session,
        *,
        is_idle: Callable[[], bool],
        on_written: Callable[[int], None],
    ) -> None:
        self._lease_writer, self._session = lease_writer, session
        self._is_idle, self._on_written = is_idle, on_written
        self._ended: queue.SimpleQueue[EndedItem | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="write")
        self._thread.start()

    def put(self, lease: Lease, session: str, end: ItemEnd) -> None:
        """Queue an item's end to be written. Never blocks."""
        self._ended.put((lease, session, end))

    def close(self) -> None:
        """Write everything that is queued, and stop."""
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

    def _gather(self, first: EndedItem) -> tuple[list[EndedItem], bool]:
        gathered = [first]
        until = time.monotonic() + GATHER_SECONDS
        while len(gathered) < MAX_ANSWERS:
            is_awaited = gathered[-1][0].source_api is SourceApi.CHAT or self._is_idle()
            wait = 0.0 if is_awaited else max(until - time.monotonic(), 0.0)
            try:
                one = self._ended.get(timeout=wait)
            except queue.Empty:
                return gathered, False
            if one is None:
                return gathered, True
            gathered.append(one)
        return gathered, False

    def _write(self, session: str, ended: Sequence[tuple[Lease, ItemEnd]]) -> None:
        answers = [(lease, one.record) for lease, one in ended if isinstance(one, StoredAnswer)]
        failures = [Failure(lease, one) for lease, one in ended if isinstance(one, IdefiqError)]
        back: dict[float, list[Lease]] = {}
        for lease, one in ended:
            if isinstance(one, Released):
                back.setdefault(one.wait_seconds, []).append(lease)
        try:
            failpoints.trigger("generated", ended)
            self._lease_writer.write(session, answers=answers, failures=failures)
            for wait_seconds, leases in back.items():
                self._lease_writer.release(session, leases, wait_seconds=wait_seconds)
        except Exception as error:  # unwritten items are rescued; see lease_writer.py
            log.warning("the results of %d items were not written: %s", len(ended), error)
            self._session.abandon(session)
