"""The lease writer: ends every lease, whatever happens to the worker's code or to the database.

A write is retried for as long as the session holds; after that other workers have the items. If
anything fails between the claim and the last write, the session is abandoned, so that its items
are rescued: a lease that is never ended would otherwise live as long as the heartbeat.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from db import claims, counts, failpoints, leases, sessions
from db.database import Database, Transaction
from db.leases import Failure, Lease, RetryPolicy
from db.states import Stage
from workers.notices import Notices
from workers.session import Session

log = logging.getLogger(__name__)


class LeaseWriter:
    """Writes how leases end, and retries while the database is unavailable.

    Args:
        session: Holds the leases; writes are retried until it is lost.
        policy: How often retryable errors are tried again.
        notices: Notifies those who wait for the jobs.
    """

    def __init__(
        self, database: Database, session: Session, policy: RetryPolicy, notices: Notices
    ) -> None:
        self._database, self._session, self._policy = database, session, policy
        self._notices = notices

    def write(
        self,
        session_id: str,
        *,
        answers: Sequence[tuple[Lease, dict[str, Any]]] = (),
        arrived: Sequence[tuple[Lease, list[str]]] = (),
        failures: Sequence[Failure] = (),
    ) -> None:
        """Complete, advance and fail items in one transaction."""
        ended = [lease for lease, _ in (*answers, *arrived)]
        ended += [failure.lease for failure in failures]
        if not ended:
            return

        def work(transaction: Transaction) -> int:
            if bool(answers) + bool(arrived) + bool(failures) > 1:
                # All jobs at once and in one order, so that two workers cannot deadlock.
                counts.lock(transaction, {lease.job_id for lease in ended})
            ours = leases.complete(transaction, answers)
            ours |= leases.advance(transaction, arrived)
            ours |= leases.fail(transaction, failures, self._policy)
            failpoints.trigger("writing")
            return len(ours)

        written = self._database.retrying(work, while_=lambda: self._session.holds(session_id))
        failpoints.trigger("written")
        self._notices.changed(*{lease.job_id for lease in ended})
        if lost := len(ended) - written:
            log.info("%d leases were lost; their results are dropped", lost)

    def release(
        self, session_id: str, released: Sequence[Lease], *, wait_seconds: float = 0.0
    ) -> None:
        """Release items to the queue without charging an attempt."""
        ids = self._database.retrying(
            lambda transaction: leases.release(transaction, released, wait_seconds=wait_seconds),
            while_=lambda: self._session.holds(session_id),
        )
        log.info("released %d items that had not started", len(ids))

    def mark_suspects(self, session_id: str, running: Sequence[Lease], *, alone: bool) -> None:
        """Mark the items on which the device hung, and end the session of the dying process."""
        with self._database.transaction() as transaction:
            leases.mark_suspects(transaction, running, alone=alone)
            sessions.end(transaction, session_id)


def claim_and_work(
    database: Database,
    session: Session,
    work: Callable[[list[Lease], str], None],
    *,
    stage: Stage,
    model: str | None,
    limit: int,
) -> bool:
    """Claim due items and pass them to `work`, with the session that holds them.

    Returns:
        True if there may be more.
    """
    with holding(session) as session_id:
        if not session.holds(session_id):
            return False
        with database.transaction() as transaction:
            taken = claims.claim(
                transaction, session=session_id, stage=stage, model=model, limit=limit
            )
        if not taken:
            with database.snapshot() as transaction:
                return claims.is_due(transaction, stage=stage, model=model)
        failpoints.trigger("claimed", taken)
        work(taken, session_id)
    return True


@contextmanager
def holding(session: Session) -> Iterator[str]:
    """Yield the session's id for a block that claims and works.

    If the block raises, the session is abandoned with all its leases.
    """
    session_id = session.id
    try:
        yield session_id
    except BaseException:
        session.abandon(session_id)
        raise
