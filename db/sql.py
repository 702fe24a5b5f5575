"""SQL text for both databases, with the few words in which they differ filled in.

    {now}             the database's clock
    {after:name}      that many seconds later; the number is the bound parameter :name
    {later:number}    the same, for an expression in SQL
    {skip_locked}     rows that another transaction holds are passed over
    {for_update}      rows are locked until the transaction ends
    {keep:table}      rows of that table are not deleted until the transaction ends
    {records:a t, b}  rows handed over as one JSON parameter, :records, with columns and types

Text, where the statement is the point of the function; SQLAlchemy's expressions elsewhere.
"""

import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, Connection, CursorResult, text

from db.lines import json_text

_PLACEHOLDER = re.compile(r"\{(\w+)(?::([^}]*))?\}")
_SQLITE_TIME = "strftime('%Y-%m-%d %H\\:%M\\:%f000', 'now'"


class Statement:
    """One statement for both databases.

    Args:
        template: SQL with the placeholders above.
        columns: Table columns that the statement returns; they convert what comes back.
    """

    def __init__(self, template: str, *columns: Column[Any]) -> None:
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
    match word:
        case "now":
            return "statement_timestamp()"
        case "after":
            return f"(statement_timestamp() + make_interval(secs => :{argument}))"
        case "later":
            return f"(statement_timestamp() + make_interval(secs => {argument}))"
        case "skip_locked":
            return "FOR UPDATE SKIP LOCKED"
        case "for_update":
            return "FOR UPDATE"
        case "keep":
            return f"FOR KEY SHARE OF {argument}"
        case "records":
            return f"jsonb_to_recordset(CAST(:records AS jsonb)) AS records({argument})"
    raise ValueError(f"unknown placeholder {word!r}")


def _sqlite(placeholder: re.Match[str]) -> str:
    word, argument = placeholder.groups()
    match word:
        case "now":
            return f"{_SQLITE_TIME})"
        case "after":
            return f"{_SQLITE_TIME}, format('%+f seconds', :{argument}))"
        case "later":
            return f"{_SQLITE_TIME}, format('%+f seconds', {argument}))"
        case "skip_locked" | "for_update" | "keep":
            return ""
        case "records":
            columns = ", ".join(_sqlite_column(*c.split()) for c in (argument or "").split(","))
            return f"(SELECT {columns} FROM json_each(:records)) AS records"  # noqa: S608 - constants
    raise ValueError(f"unknown placeholder {word!r}")


def _sqlite_column(name: str, kind: str) -> str:
    arrow = "->" if kind == "jsonb" else "->>"
    return f"value {arrow} '$.{name}' AS {name}"
