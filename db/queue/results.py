"""Reading items: one at a time, or all of a job in the order in which they finished.

A page starts after a result number and never misses one: it ends before the first number that is
reserved and not yet written, see db/queue/numbers.py.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, select, update

from db.queue import answer_issues, numbers
from db.queue import jobs as job_statements
from db.sql.database import Database
from db.tables import Json, items, jobs
from db.vocabulary.errors import NotFound
from db.vocabulary.items import Item
from db.vocabulary.states import SourceApi

_SHOWN = func.coalesce(items.c.images, items.c.request["images"], type_=Json)
_COLUMNS = [
    _SHOWN.label(name) if name == "images" else items.c[name]
    for name in Item.__dataclass_fields__
    if name != "request"
]


def _item(row: Any) -> Item:
    return Item(**row._mapping)


def get(transaction: Connection, owner_id: int, job_id: str, ordinal: int) -> Item:
    """Return one item of an owner's job.

    Raises:
        NotFound: There is no such job of this owner, or no such item in it.
    """
    job_statements.get(transaction, owner_id, job_id)
    row = transaction.execute(
        select(*_COLUMNS, items.c.request).where(
            items.c.job_id == job_id, items.c.ordinal == ordinal
        )
    ).first()
    if row is None:
        raise NotFound(f"job {job_id} has no item {ordinal}")
    return _item(row)


def _of_job(job_id: str, issues: Sequence[str]) -> ColumnElement[bool]:
    of_job = items.c.job_id == job_id
    return and_(of_job, answer_issues.has_one_of(issues)) if issues else of_job


def finished_after(
    transaction: Connection, job_id: str, *, number: int, limit: int, issues: Sequence[str] = ()
) -> Sequence[Item]:
    """Return up to `limit` final items with result numbers above `number`, in order.

    Args:
        issues: Only answers with one of these issues, if there are any; "any" stands for all.
    """
    readable = select(numbers.last_readable()).where(jobs.c.id == job_id).scalar_subquery()
    rows = transaction.execute(
        select(*_COLUMNS)
        .where(
            _of_job(job_id, issues),
            items.c.result_number > number,
            items.c.result_number <= readable,
        )
        .order_by(items.c.result_number)
        .limit(limit)
    )
    return [_item(row) for row in rows]


def pages_as_finished(
    database: Database,
    job_id: str,
    limit: int,
    *,
    number: int = 0,
    issues: Sequence[str] = (),
) -> Iterator[Sequence[Item]]:
    """Yield all final items with result numbers above `number`, `limit` at a time.

    Each page is a snapshot of its own, so that no transaction waits for whoever reads.
    """
    while True:
        with database.snapshot() as transaction:
            page = finished_after(transaction, job_id, number=number, limit=limit, issues=issues)
        if not page:
            return
        yield page
        number = page[-1].result_number or number


def in_order(
    transaction: Connection, job_id: str, *, first: int, limit: int, issues: Sequence[str] = ()
) -> Sequence[Item]:
    """Return up to `limit` items from ordinal `first` on, in the order of the submission."""
    rows = transaction.execute(
        select(*_COLUMNS)
        .where(_of_job(job_id, issues), items.c.ordinal >= first)
        .order_by(items.c.ordinal)
        .limit(limit)
    )
    return [_item(row) for row in rows]


def pages_in_order(
    database: Database, job_id: str, limit: int, *, issues: Sequence[str] = ()
) -> Iterator[Sequence[Item]]:
    """Yield all items of a job in the order of the submission, `limit` at a time.

    Each page is a snapshot of its own, so that no transaction waits for whoever reads.
    """
    first = 0
    while True:
        with database.snapshot() as transaction:
            page = in_order(transaction, job_id, first=first, limit=limit, issues=issues)
        if not page:
            return
        yield page
        first = page[-1].ordinal + 1


# ---- the file of a finished job's results ------------------------------------------


def to_write(transaction: Connection, most: int) -> list[job_statements.Job]:
    """Return finished jobs without a results file: some of each owner, oldest first."""
    return job_statements.some_jobs(
        transaction,
        most,
        jobs.c.finished_at.is_not(None),
        jobs.c.results_key.is_(None),
        jobs.c.deleted_at.is_(None),
        jobs.c.origin == SourceApi.JOB.value,
    )


def record_results(transaction: Connection, job_id: str, key: str) -> bool:
    """Record the key of a finished job's results file; False if the job was deleted."""
    recorded = transaction.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.finished_at.is_not(None), jobs.c.deleted_at.is_(None))
        .values(results_key=key)
    )
    return bool(recorded.rowcount)
