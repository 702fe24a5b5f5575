"""The counts of jobs, and the lock under which they change.

Whoever changes items locks their jobs first, in id order, and changes the counts in the same
transaction: so they agree in every snapshot, and nobody waits in a circle.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, func, select, update

from db import outbox
from db.clock import now
from db.outbox import End
from db.states import FINAL_STATES, ItemState, Origin, ended_as
from db.tables import jobs


def lock(transaction: Connection, job_ids: Iterable[str]) -> None:
    """Lock jobs in id order until the transaction ends. SQLite's writer holds all anyway."""
    ids = sorted(set(job_ids))
    transaction.execute(
        select(jobs.c.id).where(jobs.c.id.in_(ids)).order_by(jobs.c.id).with_for_update()
    )


def move(
    transaction: Connection, counts: Mapping[str, int], origin: ItemState, target: ItemState
) -> None:
    """Move items between two counts of their jobs, whose rows this transaction has locked."""
    changed = sorted(job_id for job_id, count in counts.items() if count)
    for job_id in changed:
        changes: dict[str, Any] = {
            origin.value: jobs.c[origin.value] - counts[job_id],
            target.value: jobs.c[target.value] + counts[job_id],
        }
        if target is ItemState.RUNNING:
            changes["started_at"] = func.coalesce(jobs.c.started_at, now())
        transaction.execute(update(jobs).where(jobs.c.id == job_id).values(changes))
    if target in FINAL_STATES:
        finish_if_done(transaction, changed)


def number(transaction: Connection, job_ids: Sequence[str]) -> list[int]:
    """Give each of some ending items the next result number of its job.

    Numbers given to leases that turn out to be lost stay unused: a gap is harmless, a number
    below one that a reader has already passed would be a result never seen.
    """
    wanted = Counter(job_ids)
    last = {}
    for job_id, count in sorted(wanted.items()):
        last[job_id] = transaction.execute(
            update(jobs)
            .where(jobs.c.id == job_id)
            .values(results=jobs.c.results + count)
            .returning(jobs.c.results)
        ).scalar_one()
    following = {job_id: last[job_id] - count for job_id, count in wanted.items()}
    numbers = []
    for job_id in job_ids:
        following[job_id] += 1
        numbers.append(following[job_id])
    return numbers


def finish_if_done(transaction: Connection, job_ids: Iterable[str]) -> None:
    """Finish those sealed jobs that have nothing open any more. Safe to repeat.

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
    outbox.announce(transaction, [_end(row) for row in finished if row.origin == Origin.JOB])


def _end(row: Any) -> End:
    state = ended_as(cancelled_at=row.cancelled_at, expires_at=row.expires_at, failed=row.failed)
    return End(row.owner_id, row.id, f"job.{state}")
