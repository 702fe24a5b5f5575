"""The SQLite file of a manifest: its tables, its marks, its facts, and the lock of one run."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from idefiq.errors import IdefiqError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS chunks (
    number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, source TEXT, said TEXT NOT NULL,
    job_id TEXT, cursor TEXT, ended INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS images (
    number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, location TEXT NOT NULL,
    columns TEXT NOT NULL, stamp TEXT NOT NULL, scan INTEGER NOT NULL, bucket TEXT,
    source TEXT NOT NULL, text TEXT UNIQUE, before TEXT, digests TEXT NOT NULL DEFAULT '',
    written INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL, item TEXT, chunk INTEGER, place INTEGER,
    answer TEXT, error TEXT, code TEXT);
CREATE INDEX IF NOT EXISTS images_by_state ON images (state, number);
CREATE INDEX IF NOT EXISTS images_by_chunk ON images (chunk, place);
"""
#: Marks the file as ours, and its layout.
_APPLICATION, _VERSION = 0x1DEF19, 1
_MARKS = ("application_id", "user_version")


class ManifestFile:
    """An open file.

    Args:
        path: The file; in memory if None, for runs that need not be resumed.

    Raises:
        IdefiqError: It is no manifest, cannot be written, or another run has it open.
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self.db = path, _open(path)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Open a transaction that commits at the end of the block, or rolls back."""
        self.db.execute("BEGIN")
        try:
            yield self.db
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    def fact(self, name: str) -> Any:
        """Return a fact of the run, None if it is not known."""
        row = self.db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return json.loads(row[0]) if row else None

    def set_fact(self, name: str, value: Any) -> None:
        """Record a fact."""
        self.db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))


def _open(path: Path | None) -> sqlite3.Connection:
    try:
        database = sqlite3.connect(path or ":memory:", timeout=0.2, isolation_level=None)
        # One writer: another run on the same file would send what this one sends.
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("BEGIN EXCLUSIVE")
        marks = _marks(database)
        if marks == (0, 0) and not database.execute("SELECT 1 FROM sqlite_schema").fetchone():
            for statement in _SCHEMA.split(";"):
                database.execute(statement)
            marks = (_APPLICATION, _VERSION)
            for name, value in zip(_MARKS, marks, strict=True):
                database.execute(f"PRAGMA {name} = {value}")
        database.execute("COMMIT")
    except sqlite3.OperationalError as error:
        busy = error.sqlite_errorcode == sqlite3.SQLITE_BUSY
        why = "another run uses it" if busy else str(error)
        raise IdefiqError(f"the manifest {str(path)!r} cannot be used: {why}") from error
    except sqlite3.DatabaseError as error:
        raise IdefiqError(f"{str(path)!r} is not a manifest of idefiq") from error
    if marks != (_APPLICATION, _VERSION):
        database.close()
        raise IdefiqError(f"{str(path)!r} is a manifest of another version of idefiq")
    return database


def _marks(database: sqlite3.Connection) -> tuple[int, ...]:
    return tuple(database.execute(f"PRAGMA {name}").fetchone()[0] for name in _MARKS)
