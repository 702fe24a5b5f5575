"""The memory of a run: what is there, what was asked, what was said.

A SQLite file beside the output. Every step is written down before it is taken, so a run that is
stopped anywhere goes on where it was, and the service is asked for nothing twice:

    new ─assign─▶ in a chunk, with its reference ─submit (under the chunk's key)─▶ job
                                                   └─ results, page by page ─▶ done | failed
"""

import json
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from idefiq.bulk.ask import Ask, Plan
from idefiq.bulk.sources import Location, Record
from idefiq.types import IdefiqError, Item, Result

_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS chunks (
    number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, source TEXT, job_id TEXT,
    cursor TEXT, ended INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS images (
    number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, location TEXT NOT NULL,
    columns TEXT NOT NULL, stamp TEXT NOT NULL, before TEXT,
    state TEXT NOT NULL DEFAULT 'new', reference TEXT, chunk INTEGER, place INTEGER,
    answer TEXT, error TEXT, code TEXT, written INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS images_by_state ON images (state, number);
CREATE INDEX IF NOT EXISTS images_by_chunk ON images (chunk, place);
"""
#: Which layout this code reads.
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Image:
    """A row of the manifest."""

    number: int
    key: str
    location: Location
    columns: dict[str, Any]
    before: str | None
    state: str
    reference: str | None
    answer: dict[str, Any] | None
    error: str | None
    code: str | None

    @property
    def text(self) -> str | None:
        """The answer: a label if one was asked for."""
        if self.answer is None:
            return None
        said: str | None = self.answer["label" if "label" in self.answer else "text"]
        return said  # None: a label that is none of those


@dataclass(frozen=True, slots=True)
class Chunk:
    """Images that are one job; or a bucket, which is one job too."""

    number: int
    key: str
    source: str | None
    job_id: str | None
    cursor: str | None


_IMAGE = "number, key, location, columns, before, state, reference, answer, error, code"


class Manifest:
    """Opens or makes the file of a run.

    Args:
        path: The file; in memory if None, for runs that need not be resumed.

    Raises:
        IdefiqError: It is no manifest, or another run has it open.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        # One writer: another run on the same file would send what this one sends.
        self._db = sqlite3.connect(path or ":memory:", timeout=0.2, isolation_level=None)
        try:
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.executescript(f"BEGIN EXCLUSIVE; {_SCHEMA} COMMIT;")
        except sqlite3.OperationalError as error:
            raise IdefiqError(f"another run uses the manifest {str(path)!r}") from error
        except sqlite3.DatabaseError as error:
            raise IdefiqError(f"{str(path)!r} is no manifest of idefiq") from error
        version = self._fact("version") or self._set_fact("version", _VERSION)
        if version != _VERSION:
            raise IdefiqError(f"{str(path)!r} is of another version: start a new one")

    @classmethod
    def copy(cls, path: Path | None) -> "Manifest":
        """A manifest in memory that begins as the file is, if there is one."""
        made = cls(None)
        if path and path.exists():
            source = cls(path)
            source._db.backup(made._db)
            source.close()
        return made

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN")
        try:
            yield self._db
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # ---- the plan -------------------------------------------------------------------

    def begin(self, plan: Plan, url: str) -> None:
        """Note what this run is about, or see that it is the same as before.

        Raises:
            IdefiqError: The manifest is of another question, model or service.
        """
        identity = {"ask": plan.ask.identity(), "model": plan.model, "url": url}
        earlier = self._fact("identity") if self.job_ids() else None
        if earlier is None:
            earlier = self._set_fact("identity", identity)
        for name, value in earlier.items():
            if value != identity[name]:
                raise IdefiqError(
                    f"{str(self.path)!r} is the manifest of a run with another {name}"
                    f" ({json.dumps(value, ensure_ascii=False)}): use another --manifest, or"
                    " --restart to forget it"
                )
        self._set_fact("plan", asdict(plan))

    def plan(self) -> Plan:
        """The run that was last begun.

        Raises:
            IdefiqError: None was.
        """
        said = self._fact("plan")
        if said is None:
            raise IdefiqError(f"{str(self.path)!r} is the manifest of no run")
        return Plan(**{**said, "ask": Ask(**said["ask"])})

    def _fact(self, name: str) -> Any:
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return json.loads(row[0]) if row else None

    def _set_fact(self, name: str, value: Any) -> Any:
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))
        return value

    # ---- what is there --------------------------------------------------------------

    def add(self, records: Sequence[tuple[Record, str | None]]) -> None:
        """Note records, each with the text that was there before this run had any.

        One whose file has changed since it was answered is new again.
        """
        with self._writing() as db:
            for record, before in records:
                db.execute(
                    "INSERT INTO images (key, location, columns, stamp, before, state, error, code)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET"
                    " location = excluded.location, columns = excluded.columns,"
                    " stamp = excluded.stamp, state = excluded.state, error = excluded.error,"
                    " code = excluded.code, answer = NULL, reference = NULL, chunk = NULL,"
                    " place = NULL, written = 0"
                    " WHERE images.stamp <> excluded.stamp AND images.state IN ('done', 'failed')",
                    (
                        record.key,
                        json.dumps(record.location),
                        json.dumps(record.columns, ensure_ascii=False, default=str),
                        record.stamp,
                        before,
                        "failed" if record.error else "new",
                        record.error,
                        "unreadable" if record.error else None,
                    ),
                )

    def knows(self, key: str) -> bool:
        """Whether a record was noted before."""
        return bool(self._db.execute("SELECT 1 FROM images WHERE key = ?", (key,)).fetchone())

    def skip(self, keys: Iterable[str]) -> None:
        """Ask nothing about new images that have a text already."""
        with self._writing() as db:
            for key in keys:
                db.execute(
                    "UPDATE images SET state = 'skipped' WHERE key = ? AND state = 'new'", (key,)
                )

    def counts(self) -> dict[str, int]:
        """Images by state: new, sent, done, failed, skipped."""
        return dict(self._db.execute("SELECT state, count(*) FROM images GROUP BY state"))

    def images(self, *states: str) -> Iterator[Image]:
        """Images in some states, in the order of the sources; may be written to meanwhile."""
        marks, last = ", ".join("?" * len(states)), 0
        while True:
            rows = self._db.execute(
                f"SELECT {_IMAGE} FROM images WHERE state IN ({marks}) AND number > ?"  # noqa: S608
                " ORDER BY number LIMIT 1000",
                (*states, last),
            ).fetchall()
            if not rows:
                return
            yield from map(_image, rows)
            last = rows[-1][0]

    # ---- what was asked -------------------------------------------------------------

    def fail(self, image: Image, error: str, code: str) -> None:
        """Note that an image cannot even be sent."""
        self._db.execute(
            "UPDATE images SET state = 'failed', error = ?, code = ? WHERE number = ?",
            (error, code, image.number),
        )

    def assign(self, images: Sequence[tuple[Image, str]]) -> Chunk:
        """Make a chunk of images and their references, before it is submitted."""
        with self._writing() as db:
            chunk = self._add_chunk(None)
            db.executemany(
                "UPDATE images SET state = 'sent', chunk = ?, place = ?, reference = ?"
                " WHERE number = ?",
                [
                    (chunk.number, place, reference, image.number)
                    for place, (image, reference) in enumerate(images)
                ],
            )
        return chunk

    def assign_bucket(self, source: str) -> None:
        """Make a chunk of a bucket, once."""
        known = "SELECT 1 FROM chunks WHERE source = ?"
        if not self._db.execute(known, (source,)).fetchone():
            self._add_chunk(source)

    def _add_chunk(self, source: str | None) -> Chunk:
        key = f"idefiq-{secrets.token_hex(16)}"
        cursor = self._db.execute("INSERT INTO chunks (key, source) VALUES (?, ?)", (key, source))
        return Chunk(int(cursor.lastrowid or 0), key, source, None, None)

    def items(self, chunk: Chunk, ask: Ask) -> list[Item]:
        """What a chunk's job asks: always the same, so that it can be submitted again."""
        rows = self._db.execute(
            f"SELECT {_IMAGE} FROM images WHERE chunk = ? ORDER BY place",  # noqa: S608
            (chunk.number,),
        )
        return [
            {
                **ask.own(image.key, image.columns),
                "images": [image.reference],
                "custom_id": image.key[-200:],
            }
            for image in map(_image, rows)
        ]

    def submitted(self, chunk: Chunk, job_id: str) -> None:
        """Note a chunk's job."""
        self._db.execute("UPDATE chunks SET job_id = ? WHERE number = ?", (job_id, chunk.number))

    def dissolve(self, chunk: Chunk, place: int | None, error: str) -> None:
        """Undo a chunk that the service refused; the image at `place` was at fault, if any."""
        with self._writing() as db:
            db.execute(
                "UPDATE images SET state = 'failed', error = ?, code = 'refused', chunk = NULL"
                " WHERE chunk = ? AND place = ?",
                (error, chunk.number, place),
            )
            db.execute(
                "UPDATE images SET state = 'new', chunk = NULL, place = NULL"
                " WHERE chunk = ? AND state = 'sent'",
                (chunk.number,),
            )
            db.execute("DELETE FROM chunks WHERE number = ?", (chunk.number,))

    def open_chunks(self) -> list[Chunk]:
        """Chunks whose answers are not all here."""
        rows = self._db.execute(
            "SELECT number, key, source, job_id, cursor FROM chunks WHERE NOT ended ORDER BY number"
        )
        return [Chunk(*row) for row in rows]

    def job_ids(self) -> list[str]:
        """The jobs of this run."""
        rows = self._db.execute("SELECT job_id FROM chunks WHERE job_id IS NOT NULL")
        return [row[0] for row in rows]

    # ---- what was said --------------------------------------------------------------

    def take(self, chunk: Chunk, results: Sequence[Result], cursor: str | None) -> None:
        """Note a page of results, and where the next one begins."""
        with self._writing() as db:
            for result in results:
                if chunk.source:
                    self._take_listed(db, chunk, result)
                db.execute(
                    "UPDATE images SET state = ?, answer = ?, error = ?, code = ?"
                    " WHERE chunk = ? AND place = ? AND state = 'sent'",
                    (*outcome(result), chunk.number, result.index),
                )
            db.execute("UPDATE chunks SET cursor = ? WHERE number = ?", (cursor, chunk.number))

    def _take_listed(self, db: sqlite3.Connection, chunk: Chunk, result: Result) -> None:
        """An image of a bucket is first heard of with its answer."""
        key = f"{chunk.source}{result.custom_id}"
        db.execute(
            "INSERT OR IGNORE INTO images (key, location, columns, stamp, state, chunk, place)"
            " VALUES (?, ?, ?, '', 'sent', ?, ?)",
            (
                key,
                json.dumps({"reference": key}),
                json.dumps({"file": key}, ensure_ascii=False),
                chunk.number,
                result.index,
            ),
        )

    def end(self, chunk: Chunk) -> None:
        """Note that a chunk has no more answers to come."""
        self._db.execute("UPDATE chunks SET ended = 1 WHERE number = ?", (chunk.number,))

    def unwritten(self) -> Iterator[Image]:
        """Answered images whose text file is not written."""
        rows = self._db.execute(
            f"SELECT {_IMAGE} FROM images WHERE state = 'done' AND NOT written"  # noqa: S608
            " ORDER BY number"
        ).fetchall()
        yield from map(_image, rows)

    def written(self, images: Iterable[Image]) -> None:
        """Note that text files are written."""
        with self._writing() as db:
            db.executemany(
                "UPDATE images SET written = 1 WHERE number = ?",
                [(image.number,) for image in images],
            )

    def retry(self, codes: Sequence[str] = ()) -> int:
        """Make failed images new again. Returns how many."""
        marks = ", ".join("?" * len(codes))
        some = f" AND code IN ({marks})" if codes else ""
        cursor = self._db.execute(
            "UPDATE images SET state = 'new', error = NULL, code = NULL, chunk = NULL,"  # noqa: S608
            f" place = NULL, reference = NULL WHERE state = 'failed'{some}",
            tuple(codes),
        )
        return cursor.rowcount


def _image(row: Sequence[Any]) -> Image:
    number, key, location, columns, before, state, reference, answer, error, code = row
    return Image(
        number,
        key,
        json.loads(location),
        json.loads(columns),
        before,
        state,
        reference,
        json.loads(answer) if answer else None,
        error,
        code,
    )


def outcome(result: Result) -> tuple[str, str | None, str | None, str | None]:
    """State, answer, error and code; a label that is none of those asked for is a failure."""
    answer = json.dumps(result.detail, ensure_ascii=False) if result.detail else None
    if result.detail is None:
        return "failed", None, result.error or result.state, result.error_code or result.state
    if "label" in result.detail and result.label is None:
        said = result.detail["text"]
        return "failed", answer, f"the answer names none of the labels: {said!r}", "no_label"
    return "done", answer, None, None
