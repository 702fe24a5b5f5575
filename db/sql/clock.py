"""The database's own clock, as SQL: `now()` and `after(seconds)`.

Leases are compared with the clock of the one database, never with that of a worker's host, so a
host whose clock is wrong neither steals nor keeps anything. SQLite has no timestamp type:
SQLAlchemy stores text with six decimals, and what is rendered here compares with it as text.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import ColumnElement
from sqlalchemy.sql.visitors import InternalTraversal
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC, on both databases."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive datetimes; hand over UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("naive datetime: give it a time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Read as UTC what SQLite keeps without a zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class after(ColumnElement[datetime]):
    """The database's time, `seconds` from now."""

    # Statements are compiled once for each number of seconds.
    inherit_cache = True
    _traverse_internals = [("seconds", InternalTraversal.dp_plain_obj)]  # noqa: RUF012 - SQLAlchemy's own form
    type = UtcDateTime()

    def __init__(self, seconds: float) -> None:
        self.seconds = float(seconds)


def now() -> after:
    """The database's time."""
    return after(0.0)


@compiles(after, "postgresql")
def _postgresql(element: after, compiler: Any, **_: Any) -> str:
    if not element.seconds:
        return "statement_timestamp()"
    return f"(statement_timestamp() + make_interval(secs => {element.seconds!r}))"


@compiles(after, "sqlite")
def _sqlite(element: after, compiler: Any, **_: Any) -> str:
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', '{element.seconds:+f} seconds')"
