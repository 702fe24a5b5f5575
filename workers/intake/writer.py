"""The writer of an intake: writes how items end soon after they do, many in a transaction."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

from db.queue.lease import Failure, Lease
from db.vocabulary.errors import IdefiqError
from workers.broker import Wakes, engine_queue
from workers.intake.check_results import CheckResultBuffer
from workers.lease_writer import LeaseWriter
from workers.session import Session

#: Items that end within this time are written together, unless no more are in flight.
INTAKE_GATHER_SECONDS = 0.05

#: The references of an item's stored images, or why it has failed; None releases it.
IntakeOutcome = list[str] | IdefiqError | None
EndedItem = tuple[Lease, IntakeOutcome]

log = logging.getLogger(__name__)


class IntakeWriter:
    """Writes in a thread of its own, and wakes the engines.

    Args:
        check_results: Written before the items that depend on them.
        in_flight: Returns how many items are in flight, those that wait here included.
        on_written: Called with items that were written, or given up.
    """

    def __init__(
        self,
        lease_writer: LeaseWriter,
        check_results: CheckResultBuffer,
        session: Session,
        wakes: Wakes,
        *,
        in_flight: Callable[[], int],
        on_written: Callable[[Sequence[Lease]], None],
    ) -> None:
        self._lease_writer, self._check_results = lease_writer, check_results
        self._session, self._wakes = session, wakes
        self._in_flight, self._on_written = in_flight, on_written
        self._ended: queue.SimpleQueue[EndedItem | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="write")
        self._thread.start()

    def put(self, lease: Lease, outcome: IntakeOutcome) -> None:
        """Queue an item's end to be written. Never blocks."""
        self._ended.put((lease, outcome))

    def close(self) -> None:
        """Write everything that is queued, and stop."""
        self._ended.put(None)
        self._thread.join()

    def write(self, ended: Sequence[EndedItem]) -> None:
        """Write how items ended."""
        arrived = [(lease, one) for lease, one in ended if isinstance(one, list)]
        failures = [Failure(lease, one) for lease, one in ended if isinstance(one, IdefiqError)]
        self._check_results.write()
        self._lease_writer.write(arrived=arrived, failures=failures)
        self._lease_writer.release([lease for lease, one in ended if one is None])
        self._wakes.wake(*{engine_queue(lease.model) for lease, _ in arrived})

    def _run(self) -> None:
        while gathered := self._gather():
            try:
                self.write(gathered)
            except Exception as error:  # unwritten items are rescued; see lease_writer.py
                log.warning("the ends of %d items were not written: %s", len(gathered), error)
                for session_id in {lease.session_id for lease, _ in gathered}:
                    self._session.abandon(session_id)
            self._on_written([lease for lease, _ in gathered])

    def _gather(self) -> list[EndedItem]:
        """Wait for items that have ended; none at the end."""
        gathered: list[EndedItem] = []
        until = float("inf")
        while not gathered or len(gathered) < self._in_flight():
            try:
                one = self._ended.get(
                    timeout=max(until - time.monotonic(), 0.0) if gathered else None
                )
            except queue.Empty:
                break
            if one is None:
                if gathered:
                    self._ended.put(None)  # for the next call
                break
            if not gathered:
                until = time.monotonic() + INTAKE_GATHER_SECONDS
            gathered.append(one)
        return gathered
