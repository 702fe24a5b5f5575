"""Item counts of jobs, and the lock under which they change.

Whoever changes items locks their jobs first, in id order, and changes the counts in the same
transaction: so they agree in every snapshot, and transactions cannot deadlock.
"""

import itertools
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, select, update

from db.queue.lease import Lease
from db.queue.usage import OF_JOB, Amounts
from db.sql.clock import now
from db.sql.statement import Statement
from db.tables import jobs
from db.vocabulary.states import FINAL_STATES, ItemState, SourceApi, ended_as
from db.webhooks import outbox
from db.webhooks.outbox import Announcement


def _is_answer(target: ItemState) -> bool:
    return target is ItemState.SUCCEEDED


_MOVES = {
    (origin, target): Statement(
        f"UPDATE jobs SET {origin} = {origin} - :count, {target} = {target} + :count"  # noqa: S608 - words
        + (", started_at = COALESCE(started_at, {now})" if target is ItemState.RUNNING else "")
        + (", results = :last" if target in FINAL_STATES else "")
        + ("".join(f", {name} = {name} + :{name}" for name in OF_JOB) if _is_answer(target) else "")
        + " WHERE id = :job RETURNING queued, running"
    )
    for origin, target in itertools.permutations(ItemState, 2)
}


def lock(transaction: Connection, job_ids: Iterable[str]) -> dict[str, int]:
    """Lock jobs in id order until the transaction ends. SQLite's single writer holds all anyway.

    Returns:
        The last result number of each.
    """
    found = transaction.execute(
        select(jobs.c.id, jobs.c.results)
        .where(jobs.c.id.in_(sorted(set(job_ids))))
        .order_by(jobs.c.id)
        .with_for_update()
    )
    return {row.id: row.results for row in found}


def move(
    transaction: Connection,
    counts: Mapping[str, int],
    origin: ItemState,
    target: ItemState,
    last: Mapping[str, int] | None = None,
    used: Mapping[str, tuple[Lease, Amounts]] = MappingProxyType({}),
) -> None:
    """Move items between two counts of their jobs, whose rows this transaction has locked.

    Args:
        counts: How many of each job.
        last: Where they end, the highest result number that they have taken of each job.
        used: What those have used that are answered, by job; see usage.of_answers.
    """
    done = []
    for job_id, count in sorted(counts.items()):
        if not count:
            continue
        numbers: dict[str, Any] = {}
        if last and target in FINAL_STATES:
            numbers["last"] = last[job_id]
        if _is_answer(target):
            amounts = used[job_id][1]
            numbers |= {name: getattr(amounts, name) for name in OF_JOB}
        left = _MOVES[origin, target].run(transaction, job=job_id, count=count, **numbers).one()
        if left.queued == left.running == 0:
            done.append(job_id)
    if done and target in FINAL_STATES:
        finish_if_done(transaction, done)


def finish_if_done(transaction: Connection, job_ids: Iterable[str]) -> None:
    """Finish those sealed jobs that have no open items any more. Safe to repeat.

    Their webhooks are written into the outbox in the same transaction.
    """
    finished = transaction.execute(
        update(jobs)
        .where(
            jobs.c.id.in_(list(job_ids)),
            jobs.c.sealed_at.is_not(None),
            jobs.c.finished_at.is_(None),
            jobs.c.queued == 0,
            jobs.c.running == 0,
        )
        .values(finished_at=now())
        .returning(
            jobs.c.id,
            jobs.c.owner_id,
            jobs.c.origin,
            jobs.c.cancelled_at,
            jobs.c.expires_at,
            jobs.c.failed,
        )
    ).all()
    outbox.announce(
        transaction, [_announcement(row) for row in finished if row.origin == SourceApi.JOB]
    )


def _announcement(row: Any) -> Announcement:
    state = ended_as(cancelled_at=row.cancelled_at, expires_at=row.expires_at, failed=row.failed)
    return Announcement(row.owner_id, row.id, f"job.{state}")
