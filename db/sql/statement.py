"""SQL text for both databases, with the few words in which they differ filled in.

    {now}             the database's clock
    {after:name}      that many seconds later; the number is the bound parameter :name
    {later:number}    the same, for an expression in SQL
    {skip_locked}     rows that another transaction holds are passed over
    {skip:table}      the same, for rows of one table of a join
    {keep:table}      rows of that table are not deleted until the transaction ends
    {today}           the day in UTC, by the database's clock
    {date}            the type of a day
    {seconds_since:t} seconds that have passed since the time `t`, by the database's clock
    {database_bytes}  a query for the size of the database
    {records:a t, b}  rows handed over as one JSON parameter, :records, with columns and types

Text, where the statement is the point of the function; SQLAlchemy's expressions elsewhere.
"""

import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnClause, Connection, CursorResult, text

from db.vocabulary.lines import json_text

_PLACEHOLDER = re.compile(r"\{(\w+)(?::([^}]*))?\}")
#: Placeholders by word; {} is the argument.
_POSTGRESQL = {
    "now": "statement_timestamp()",
    "after": "(statement_timestamp() + make_interval(secs => :{}))",
    "later": "(statement_timestamp() + make_interval(secs => {}))",
    "skip_locked": "FOR UPDATE SKIP LOCKED",
    "skip": "FOR UPDATE OF {} SKIP LOCKED",
    "keep": "FOR KEY SHARE OF {}",
    "seconds_since": "CAST(EXTRACT(EPOCH FROM statement_timestamp() - {}) AS float8)",
    "today": "CAST(statement_timestamp() AT TIME ZONE 'UTC' AS date)",
    "date": "date",
    "database_bytes": "SELECT pg_database_size(current_database())",
    "records": "jsonb_to_recordset(CAST(:records AS jsonb)) AS records({})",
}
_SQLITE_TIME = "strftime('%Y-%m-%d %H\\:%M\\:%f000', 'now'"
_SQLITE = {
    "now": f"{_SQLITE_TIME})",
    "after": f"{_SQLITE_TIME}, format('%+f seconds', :{{}}))",
    "later": f"{_SQLITE_TIME}, format('%+f seconds', {{}}))",
    "skip_locked": "",
    "skip": "",
    "keep": "",
    "seconds_since": "((julianday('now') - julianday({})) * 86400.0)",
    "today": "date('now')",
    "date": "text",
    "database_bytes": "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
}


class Statement:
    """One statement for both databases.

    Args:
        template: SQL with the placeholders above.
        columns: Table columns that the statement returns; they convert what comes back.
    """

    def __init__(self, template: str, *columns: ColumnClause[Any]) -> None:
        self._texts = {}
        for dialect, fill in (("postgresql", _postgresql), ("sqlite", _sqlite)):
            filled = text(_PLACEHOLDER.sub(fill, template))
            self._texts[dialect] = filled.columns(*columns) if columns else filled

    def run(
        self,
        transaction: Connection,
        *,
        records: Sequence[dict[str, Any]] | None = None,
        **parameters: Any,
    ) -> CursorResult[Any]:
        """Execute with named parameters; `records` become the rows of {records:…}."""
        if records is not None:
            parameters["records"] = json_text(records)
        result: CursorResult[Any] = transaction.execute(
            self._texts[transaction.dialect.name], parameters
        )
        return result


def _postgresql(placeholder: re.Match[str]) -> str:
    word, argument = placeholder.groups()
    return _POSTGRESQL[word].format(argument)


def _sqlite(placeholder: re.Match[str]) -> str:
    word, argument = placeholder.groups()
    if word == "records":
        columns = ", ".join(_sqlite_column(*c.split()) for c in (argument or "").split(","))
        return f"(SELECT {columns} FROM json_each(:records)) AS records"  # noqa: S608 - constants
    return _SQLITE[word].format(argument)


def _sqlite_column(name: str, kind: str) -> str:
    arrow = "->" if kind == "jsonb" else "->>"
    return f"value {arrow} '$.{name}' AS {name}"
