"""Every lease ends, whatever happens to the worker's own code or to the database.

A write is tried for as long as the session holds: after that the items belong to others and
there is nothing to write. A lease that nobody ended would stay with a session whose heartbeat
goes on for ever, so what is left when a look ends in an exception is failed, to be tried again.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from db import leases
from db.database import Database, Transaction
from db.errors import EngineError, StorageError
from db.leases import Failure, Lease, RetryPolicy
from workers.session import Session

log = logging.getLogger(__name__)


class LeaseEnds:
    """Writes the ends of leases, again and again while the database is away.

    Args:
        session: Tells for how long writing makes sense.
        policy: What becomes of retryable errors.
    """

    def __init__(self, database: Database, session: Session, policy: RetryPolicy) -> None:
        self._database, self._session, self._policy = database, session, policy

    def write(
        self,
        session_id: str,
        *,
        answers: Sequence[tuple[Lease, dict[str, Any]]] = (),
        arrived: Sequence[tuple[Lease, list[str]]] = (),
        failures: Sequence[Failure] = (),
    ) -> None:
        """Complete, advance and fail, in one transaction."""
        if not (answers or arrived or failures):
            return

        def work(transaction: Transaction) -> int:
            ours = leases.complete(transaction, answers)
            ours |= leases.advance(transaction, arrived)
            return len(ours | leases.fail(transaction, failures, self._policy))

        written = self._database.retrying(work, while_=lambda: self._session.holds(session_id))
        if lost := len(answers) + len(arrived) + len(failures) - written:
            log.info("%d leases were lost; what was found for them is dropped", lost)

    def release(self, session_id: str, given_back: Sequence[Lease]) -> None:
        """Hand items back, charged to nobody."""
        released = self._database.retrying(
            lambda transaction: leases.release(transaction, given_back),
            while_=lambda: self._session.holds(session_id),
        )
        log.info("released %d items that had not begun", len(released))


@contextmanager
def ending_all(ends: LeaseEnds, taken: Sequence[Lease], session_id: str) -> Iterator[None]:
    """Fail, as retryable, whatever of `taken` is still leased when the block raises."""
    try:
        yield
    except StorageError:
        raise  # writing was tried until the session was lost: nothing is leased any more
    except Exception:
        error = EngineError("the worker failed unexpectedly; its log says how")
        ends.write(session_id, failures=[Failure(lease, error) for lease in taken])
        raise
