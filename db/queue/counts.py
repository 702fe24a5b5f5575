"""Item counts of jobs, and the locks under which they change.

Whoever changes items changes the counts of their jobs in the same transaction, so they agree in
every snapshot. Nobody waits in a circle, because everybody locks in one order:

    items ─▶ jobs, in id order ─▶ owners, in id order ─▶ usage and rows that are new

Claims and large writes lock their jobs last, with the counts, so workers of one job wait for each
other only for the time of a commit. Rescues, cancellations and the first claim of a job lock the
job first, and pass over items that are locked.
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
from db.tables import items, jobs
from db.vocabulary.states import FINAL_STATES, ItemState, SourceApi, ended_as
from db.webhooks import outbox
from db.webhooks.outbox import Announcement

_USED = ", ".join(f"{name} {'float8' if name == 'device_seconds' else 'bigint'}" for name in OF_JOB)


def _move(origin: ItemState, target: ItemState) -> Statement:
    changes = [f"{origin} = jobs.{origin} - moved", f"{target} = jobs.{target} + moved"]
    if target is ItemState.RUNNING:
        changes.append("started_at = COALESCE(started_at, {now})")
    if target is ItemState.SUCCEEDED:
        changes += [f"{name} = jobs.{name} + records.{name}" for name in OF_JOB]
    return Statement(
        f"UPDATE jobs SET {', '.join(changes)} FROM {{records:job text, moved bigint, {_USED}}}"  # noqa: S608 - words
        " WHERE jobs.id = records.job RETURNING jobs.id, queued, running"
    )


_MOVES = {pair: _move(*pair) for pair in itertools.permutations(ItemState, 2)}


def lock(transaction: Connection, job_ids: Iterable[str]) -> None:
    """Lock jobs in id order until the transaction ends. SQLite's single writer holds all anyway."""
    transaction.execute(
        select(jobs.c.id)
        .where(jobs.c.id.in_(sorted(set(job_ids))))
        .order_by(jobs.c.id)
        .with_for_update(key_share=True)
    )


def lock_leased(transaction: Connection, leases: Iterable[Lease]) -> None:
    """Lock items and then their jobs, before several statements write them in one transaction.

    The items first, because a claim may hold a lock on one of them that it does not take: Postgres
    keeps the lock of a row that another claim took since the statement began.
    """
    held = list(leases)
    if not held:
        return
    # Items whose lease is lost are another worker's to lock.
    transaction.execute(
        select(items.c.id)
        .where(
            items.c.id.in_(sorted({lease.item_id for lease in held})),
            items.c.session_id.in_(sorted({lease.session_id for lease in held})),
        )
        .order_by(items.c.id)
        .with_for_update(key_share=True)
    )
    lock(transaction, {lease.job_id for lease in held})


def move(
    transaction: Connection,
    counts: Mapping[str, int],
    origin: ItemState,
    target: ItemState,
    used: Mapping[str, tuple[Lease, Amounts]] = MappingProxyType({}),
) -> None:
    """Move items between two counts of their jobs, and finish the jobs that have no open items.

    Args:
        counts: How many of each job.
        used: What those have used that are answered, by job; see usage.of_answers.
    """
    moved = {job_id: count for job_id, count in sorted(counts.items()) if count}
    if not moved:
        return
    if len(moved) > 1:
        lock(transaction, moved)
    nothing = Amounts()
    records: list[dict[str, Any]] = []
    for job_id, count in moved.items():
        amounts = used[job_id][1] if job_id in used else nothing
        record = {name: getattr(amounts, name) for name in OF_JOB}
        records.append({"job": job_id, "moved": count, **record})
    rows = _MOVES[origin, target].run(transaction, records=records).all()
    done = [row.id for row in rows if row.queued == row.running == 0]
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
