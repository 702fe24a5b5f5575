"""Result numbers: the order in which readers page through a job's results.

    few results     draw, under the lock of the job's row, which is held until the commit
    many results    reserve ─▶ commit ─▶ take, write ─▶ commit: no other worker waits meanwhile

A reader who has seen a number must never find a smaller one later. So readers stop before the
first number that is reserved and not yet written; see `last_readable`. A reservation disappears in
the transaction that writes its results, or with its dead session.
"""

from collections.abc import Collection, Iterable, Mapping

from sqlalchemy import ColumnElement, Connection, case, delete, func, select, text

from db.queue import counts
from db.sql.statement import Statement
from db.tables import jobs, reservations
from db.vocabulary.lines import json_text

#: So many results of one job are worth a transaction of their own for their numbers.
WORTH_RESERVING = 16

_DRAW = Statement(
    """
    UPDATE jobs SET results = results + records.count FROM {records:job text, count bigint}
    WHERE jobs.id = records.job RETURNING id, results
    """
)
#: One round trip, which waits for no disk: a crash that loses it has lost the later one too.
_RESERVE = text(
    """
    WITH alive AS (
        SELECT set_config('synchronous_commit', 'off', true) FROM sessions
        WHERE id = :session AND alive_until >= statement_timestamp()
    ), drawn AS (
        UPDATE jobs SET results = results + wanted.count
        FROM jsonb_to_recordset(CAST(:wanted AS jsonb)) AS wanted(job text, count bigint)
        WHERE jobs.id = wanted.job AND EXISTS (SELECT * FROM alive)
        RETURNING jobs.id, owner_id, jobs.results - wanted.count + 1 AS first
    ), reserved AS (
        INSERT INTO reservations (job_id, first_number, owner_id, session_id)
        SELECT id, first, owner_id, :session FROM drawn
    )
    SELECT id, first FROM drawn
    """
)
_TAKE = Statement(
    """
    DELETE FROM reservations WHERE (job_id, first_number) IN (
        SELECT job, first FROM {records:job text, first bigint})
    RETURNING job_id, first_number
    """
)
#: Of sessions that are dead or gone; what a transaction is writing at this moment is passed over.
_RELEASE = Statement(
    """
    DELETE FROM reservations WHERE (job_id, first_number) IN (
        SELECT job_id, first_number FROM reservations WHERE NOT EXISTS (
            SELECT 1 FROM sessions
            WHERE sessions.id = reservations.session_id AND alive_until >= {now})
        ORDER BY job_id, first_number {skip_locked})
    """
)


def last_readable() -> ColumnElement[int]:
    """The highest result number of `jobs` below which every result is written.

    Of a finished job this is the last one, whatever a worker has reserved that died since.
    """
    reserved = (
        select(func.min(reservations.c.first_number))
        .where(reservations.c.job_id == jobs.c.id)
        .scalar_subquery()
    )
    is_finished = jobs.c.finished_at.is_not(None)
    return case((is_finished, jobs.c.results), else_=func.coalesce(reserved - 1, jobs.c.results))


def draw(transaction: Connection, wanted: Mapping[str, int]) -> dict[str, int]:
    """Give each job its next result numbers. The caller has locked the jobs; see counts.lock.

    Args:
        wanted: How many, by job.

    Returns:
        The first number of each job.
    """
    records = [{"job": job_id, "count": count} for job_id, count in wanted.items()]
    rows = _DRAW.run(transaction, records=records)
    return {row.id: row.results - wanted[row.id] + 1 for row in rows}


def reserve(transaction: Connection, wanted: Mapping[str, int], session: str) -> dict[str, int]:
    """Draw numbers for results that a later transaction writes; it calls `take`.

    Reserves nothing for a session that has expired. On SQLite, which has one writer, nobody could
    write meanwhile, so there is nothing to reserve.

    Returns:
        The first number of each job.
    """
    if transaction.dialect.name == "sqlite":
        return {}
    if len(wanted) > 1:
        counts.lock(transaction, wanted)
    records = [{"job": job_id, "count": count} for job_id, count in wanted.items()]
    rows = transaction.execute(_RESERVE, {"session": session, "wanted": json_text(records)})
    return {row.id: int(row.first) for row in rows}


def withdraw(transaction: Connection, job_ids: Iterable[str], session: str) -> None:
    """Delete reservations of a session: it does not know whether it has them, and reserves anew."""
    transaction.execute(
        delete(reservations).where(
            reservations.c.session_id == session, reservations.c.job_id.in_(list(job_ids))
        )
    )


def take(
    transaction: Connection, wanted: Collection[str], reserved: Mapping[str, int]
) -> dict[str, int]:
    """Return the first number of each job's results, which this transaction writes.

    Jobs without a reservation are left out, and those whose reservation is gone because its session
    has expired.
    """
    records = [
        {"job": job_id, "first": number} for job_id, number in reserved.items() if job_id in wanted
    ]
    if not records:
        return {}
    return {row.job_id: int(row.first_number) for row in _TAKE.run(transaction, records=records)}


def release(transaction: Connection) -> None:
    """Delete the reservations of dead sessions: nobody writes those results any more."""
    _RELEASE.run(transaction)
