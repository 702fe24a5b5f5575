"""The lease writer: ends every lease, whatever happens to the worker's code or to the database.

A write is retried for as long as the session holds; after that other workers have the items. If
anything fails between the claim and the last write, the session is abandoned, so that its items
are rescued: a lease that is never ended would otherwise live as long as the heartbeat.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from db import failpoints, tracing
from db.queue import claims, counts, leases, numbers, sessions
from db.queue.lease import Failure, Lease, RetryPolicy
from db.sql.database import Database, Transaction
from db.vocabulary.errors import StorageError
from workers import metrics
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
        self._notices, self._stage = notices, session.stage

    def write(
        self,
        *,
        answers: Sequence[tuple[Lease, dict[str, Any]]] = (),
        arrived: Sequence[tuple[Lease, list[str]]] = (),
        failures: Sequence[Failure] = (),
        device_seconds: Mapping[int, float] = MappingProxyType({}),
    ) -> None:
        """Complete, advance and fail items in one transaction.

        Args:
            device_seconds: Time on the device of answered items, by item id.
        """
        ended = [lease for lease, _ in (*answers, *arrived)]
        ended += [failure.lease for failure in failures]
        if not ended:
            return

        reserved: dict[str, int] = {}

        def work(transaction: Transaction) -> set[int]:
            if bool(answers) + bool(arrived) + bool(failures) > 1:
                counts.lock_leased(transaction, ended)  # all at once: nobody waits in a circle
            ours = leases.complete(transaction, answers, device_seconds, reserved)
            ours |= leases.advance(transaction, arrived)
            ours |= leases.fail(transaction, failures, self._policy)
            failpoints.trigger("writing")
            return ours

        try:
            with metrics.step("write", ended, items=len(ended)):
                reserved = self._reserve([lease for lease, _ in answers])
                written = self._database.retrying(work, while_=lambda: self._holds(ended))
        except StorageError:
            metrics.LEASES_LOST.inc(len(ended))
            raise
        failpoints.trigger("written")
        self._notices.changed(*{lease.job_id for lease in ended})
        outcomes = [(lease, "succeeded") for lease, _ in answers]
        outcomes += [(lease, "advanced") for lease, _ in arrived]
        outcomes += [
            (each.lease, "failed" if self._policy.is_final(each) else "retried")
            for each in failures
        ]
        self._count(outcomes, written)
        for failure in failures:
            metrics.ITEM_ERRORS.labels(self._stage, failure.error.code).inc()
        if lost := len(ended) - len(written):
            log.info("%d leases were lost; their results are dropped", lost)

    def _reserve(self, answered: Sequence[Lease]) -> dict[str, int]:
        """Reserve result numbers, so that no other worker waits while many answers are written."""
        wanted = Counter(lease.job_id for lease in answered)
        many = {job: count for job, count in wanted.items() if count >= numbers.WORTH_RESERVING}
        if not many or self._database.is_sqlite:
            return {}
        session_id, is_retry = answered[0].session_id, False

        def work(transaction: Transaction) -> dict[str, int]:
            nonlocal is_retry
            if is_retry:  # the commit may have been done, and its answer lost
                numbers.withdraw(transaction, many, session_id)
            is_retry = True
            return numbers.reserve(transaction, many, session_id)

        return self._database.retrying(work, while_=lambda: self._holds(answered))

    def _count(self, outcomes: Sequence[tuple[Lease, str]], written: Container[int]) -> None:
        counted = Counter(
            (lease.model, lease.request["kind"], outcome)
            for lease, outcome in outcomes
            if lease.item_id in written
        )
        for labels, count in counted.items():
            metrics.ITEMS_ENDED.labels(self._stage, *labels).inc(count)
        metrics.LEASES_LOST.inc(len(outcomes) - counted.total())

    def release(self, released: Sequence[Lease], *, wait_seconds: float = 0.0) -> None:
        """Release items to the queue without charging an attempt."""
        if not released:
            return
        ids = self._database.retrying(
            lambda transaction: leases.release(transaction, released, wait_seconds=wait_seconds),
            while_=lambda: self._holds(released),
        )
        self._count([(lease, "released") for lease in released], ids)
        log.info("released %d items that had not started", len(ids))

    def mark_suspects(self, running: Sequence[Lease]) -> None:
        """Mark the items on which the device hung, and end the sessions of the dying process."""
        with self._database.transaction() as transaction:
            leases.mark_suspects(transaction, running, alone=len(running) == 1)
            for session_id in {lease.session_id for lease in running}:
                sessions.end(transaction, session_id)

    def _holds(self, ended: Sequence[Lease]) -> bool:
        return any(self._session.holds(lease.session_id) for lease in ended)


def claim_and_work(
    database: Database,
    session: Session,
    work: Callable[[list[Lease]], None],
    *,
    model: str | None,
    limit: int,
    without: Collection[int] = (),
) -> bool:
    """Claim due items and pass them to `work`; see db.queue.claims.claim.

    Returns:
        True if there may be more.
    """
    stage = session.stage
    with holding(session) as session_id:
        if not session.holds(session_id):
            return False
        began_ns = time.time_ns()
        with database.transaction() as transaction:
            taken = claims.claim(
                transaction,
                session=session_id,
                stage=stage,
                model=model,
                limit=limit,
                without=without,
            )
        if not taken:
            with database.snapshot() as transaction:
                return claims.is_due(
                    transaction, session=session_id, stage=stage, model=model, without=without
                )
        failpoints.trigger("claimed", taken)
        metrics.ITEMS_CLAIMED.labels(stage).inc(len(taken))
        metrics.CLAIM_WAIT_SECONDS.labels(stage).observe(max(one.waited_seconds for one in taken))
        traceparents = [lease.traceparent for lease in taken]
        with tracing.work_span(
            f"claim for {stage}", traceparents, began_ns=began_ns, items=len(taken)
        ):
            work(taken)
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
