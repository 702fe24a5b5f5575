"""Every lease ends, whatever happens to the worker's own code or to the database.

A write is tried for as long as the session holds: after that the items belong to others. When
anything goes wrong between the claim and the last write, the session is abandoned, and what it
had is rescued: a lease that nobody ends would otherwise live as long as the heartbeat.
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


class LeaseEnds:
    """Writes the ends of leases, again and again while the database is away.

    Args:
        session: Tells for how long writing makes sense.
        policy: What becomes of retryable errors.
        notices: Tell those who wait for the jobs.
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
        """Complete, advance and fail, in one transaction."""
        ended = [lease for lease, _ in (*answers, *arrived)]
        ended += [failure.lease for failure in failures]
        if not ended:
            return

        def work(transaction: Transaction) -> int:
            if bool(answers) + bool(arrived) + bool(failures) > 1:
                # All at once and in one order, or two workers could wait for each other.
                counts.lock(transaction, {lease.job_id for lease in ended})
            ours = leases.complete(transaction, answers)
            ours |= leases.advance(transaction, arrived)
            ours |= leases.fail(transaction, failures, self._policy)
            failpoints.reach("writing")
            return len(ours)

        written = self._database.retrying(work, while_=lambda: self._session.holds(session_id))
        failpoints.reach("written")
        self._notices.changed(*{lease.job_id for lease in ended})
        if lost := len(ended) - written:
            log.info("%d leases were lost; what was found for them is dropped", lost)

    def release(
        self, session_id: str, given_back: Sequence[Lease], *, wait_seconds: float = 0.0
    ) -> None:
        """Hand items back, charged to nobody."""
        released = self._database.retrying(
            lambda transaction: leases.release(transaction, given_back, wait_seconds=wait_seconds),
            while_=lambda: self._session.holds(session_id),
        )
        log.info("released %d items that had not begun", len(released))

    def blame(self, session_id: str, running: Sequence[Lease], *, alone: bool) -> None:
        """Say on what the device hung, and end the session: the process is about to end."""
        with self._database.transaction() as transaction:
            leases.blame(transaction, running, alone=alone)
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
    """Claim what is due and hand it to `work`, with the session that holds it.

    Returns:
        Whether there may be more.
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
        failpoints.reach("claimed", taken)
        work(taken, session_id)
    return True


@contextmanager
def holding(session: Session) -> Iterator[str]:
    """Claim and work inside the block, under the session whose id it yields.

    If the block raises, the session is abandoned with whatever it has leased.
    """
    session_id = session.id
    try:
        yield session_id
    except BaseException:
        session.abandon(session_id)
        raise
