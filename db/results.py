"""Reading items: one at a time, or all of a job in the order in which they finished.

A page starts after a result number and never misses one: numbers are given under the lock of
the job's row, so none appears below one that a reader has already seen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select

from db import jobs as job_statements
from db.database import Database
from db.errors import NotFound
from db.lines import json_line
from db.tables import Json, items


@dataclass(frozen=True, slots=True)
class Item:
    """An item as its owner sees it.

    Attributes:
        images: References as intake has read them, or as they were submitted.
        request: Of an item that is looked at by itself; pages have room for answers alone.
    """

    ordinal: int
    custom_id: str | None
    state: str
    stage: str
    images: list[str] | None
    answer: dict[str, Any] | None
    error_code: str | None
    error_message: str | None
    finished_at: datetime | None
    result_number: int | None
    request: dict[str, Any] | None = None

    def public(self) -> dict[str, Any]:
        """The JSON that owners get, in pages, streams and results files alike."""
        error = {"code": self.error_code, "message": self.error_message}
        return {
            "index": self.ordinal,
            "custom_id": self.custom_id,
            "state": self.state,
            "images": self.images or [],
            "answer": self.answer,
            "error": error if self.error_code else None,
            "finished_at": _shown(self.finished_at),
        }

    def line(self) -> bytes:
        """The same as one line of JSON."""
        return json_line(self.public()) + b"\n"


def _shown(at: datetime | None) -> str | None:
    return at.isoformat().replace("+00:00", "Z") if at else None


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


def finished_after(
    transaction: Connection, job_id: str, *, number: int, limit: int
) -> Sequence[Item]:
    """Return up to `limit` final items with result numbers above `number`, in order."""
    rows = transaction.execute(
        select(*_COLUMNS)
        .where(items.c.job_id == job_id, items.c.result_number > number)
        .order_by(items.c.result_number)
        .limit(limit)
    )
    return [_item(row) for row in rows]


def pages_as_finished(
    database: Database, job_id: str, limit: int, *, number: int = 0
) -> Iterator[Sequence[Item]]:
    """Yield all final items with result numbers above `number`, `limit` at a time.

    Each page is a snapshot of its own, so that no transaction waits for whoever reads.
    """
    while True:
        with database.snapshot() as transaction:
            page = finished_after(transaction, job_id, number=number, limit=limit)
        if not page:
            return
        yield page
        number = page[-1].result_number or number


def in_order(transaction: Connection, job_id: str, *, first: int, limit: int) -> Sequence[Item]:
    """Return up to `limit` items from ordinal `first` on, in the order of the submission."""
    rows = transaction.execute(
        select(*_COLUMNS)
        .where(items.c.job_id == job_id, items.c.ordinal >= first)
        .order_by(items.c.ordinal)
        .limit(limit)
    )
    return [_item(row) for row in rows]


def pages_in_order(database: Database, job_id: str, limit: int) -> Iterator[Sequence[Item]]:
    """Yield all items of a job in the order of the submission, `limit` at a time.

    Each page is a snapshot of its own, so that no transaction waits for whoever reads.
    """
    first = 0
    while True:
        with database.snapshot() as transaction:
            page = in_order(transaction, job_id, first=first, limit=limit)
        if not page:
            return
        yield page
        first = page[-1].ordinal + 1
