"""Files of OpenAI's API: uploaded inputs, and outputs of batches.

The bytes are in the blob store before the row is there, and leave it before the row does.
"""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select
from sqlalchemy.exc import IntegrityError

from db.sql.clock import after, now
from db.sql.fair import first_of_each_owner
from db.tables import files
from db.vocabulary.errors import NotFound


@dataclass(frozen=True, slots=True)
class File:
    """A file as its owner sees it."""

    id: str
    owner_id: int
    filename: str
    purpose: str
    size_bytes: int
    created_at: datetime
    expires_at: datetime | None


_COLUMNS = [files.c[field.name] for field in fields(File)]


def _file(row: Row[Any]) -> File:
    return File(**row._mapping)


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file whose bytes are stored. `expires_seconds` counts from now; None never expires."""

    id: str
    owner_id: int
    filename: str
    purpose: str
    size_bytes: int
    expires_seconds: int | None = None


def add(transaction: Connection, new: NewFile) -> File:
    """Record a file. Safe to repeat; the first one stays."""
    try:
        with transaction.begin_nested():
            transaction.execute(
                insert(files).values(
                    id=new.id,
                    owner_id=new.owner_id,
                    filename=new.filename,
                    purpose=new.purpose,
                    size_bytes=new.size_bytes,
                    created_at=now(),
                    expires_at=after(new.expires_seconds) if new.expires_seconds else None,
                )
            )
    except IntegrityError:
        pass  # a step that runs twice
    return get(transaction, new.owner_id, new.id)


def get(transaction: Connection, owner_id: int, file_id: str) -> File:
    """Return a file of this owner.

    Raises:
        NotFound: There is none, or it is another owner's.
    """
    row = transaction.execute(
        select(*_COLUMNS).where(files.c.id == file_id, files.c.owner_id == owner_id)
    ).first()
    if row is None:
        raise NotFound(f"no such file: {file_id!r}")
    return _file(row)


def page(
    transaction: Connection,
    owner_id: int,
    *,
    purpose: str | None,
    newest_first: bool,
    beyond: str | None,
    limit: int,
) -> list[File]:
    """Return an owner's files by id; `beyond` is the last id of the previous page."""
    query = select(*_COLUMNS).where(files.c.owner_id == owner_id)
    if purpose is not None:
        query = query.where(files.c.purpose == purpose)
    if beyond is not None:
        query = query.where(files.c.id < beyond if newest_first else files.c.id > beyond)
    order = files.c.id.desc() if newest_first else files.c.id
    return [_file(row) for row in transaction.execute(query.order_by(order).limit(limit))]


def expired(transaction: Connection, most: int) -> list[File]:
    """Return expired files: some of each owner."""
    query = select(*_COLUMNS).where(files.c.expires_at < now())
    rows = transaction.execute(first_of_each_owner(query, files.c.owner_id, files.c.id, most))
    return [_file(row) for row in rows]


def remove(transaction: Connection, owner_id: int, file_id: str) -> None:
    """Delete the row of a file whose bytes are deleted. Safe to repeat."""
    transaction.execute(delete(files).where(files.c.id == file_id, files.c.owner_id == owner_id))
