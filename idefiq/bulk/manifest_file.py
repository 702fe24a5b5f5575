"""The SQLite file of a manifest: its tables, its marks, and the lock of one run."""

import sqlite3
from pathlib import Path

from idefiq.types import IdefiqError

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


def opened(path: Path | None) -> sqlite3.Connection:
    """Open or create the file of a manifest; in memory without a path.

    Raises:
        IdefiqError: It is no manifest, cannot be written, or another run has it open.
    """
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
