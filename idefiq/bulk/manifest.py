"""The manifest of a run: its images, what was submitted, and the answers.

A SQLite file beside the output. Every step is written down before it is taken, so a run that is
stopped anywhere goes on where it was, and the service is asked for nothing twice:

    new ─assign─▶ in a chunk, with its item ─submit (under the chunk's key)─▶ job
                                              └─ results, page by page ─▶ done | failed
"""

import json
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from idefiq.bulk.ask import Ask, Plan
from idefiq.bulk.images import COLUMNS, Chunk, Image, image_of, outcome
from idefiq.bulk.manifest_file import opened
from idefiq.bulk.records import Record
from idefiq.types import IdefiqError, Item, Result

#: A record, and where its text file may be.
Found = tuple[Record, Sequence[Path]]
#: Reads the text of an existing file, None without one; raises if it must not be changed.
Before = Callable[[Path], str | None]

_NEW = (
    "state = 'new', item = NULL, chunk = NULL, place = NULL, answer = NULL, error = NULL,"
    " code = NULL, written = 0"
)


class Manifest:
    """Opens or creates the file of a run.

    Args:
        path: The file; in memory if None, for runs that need not be resumed.

    Raises:
        IdefiqError: It is no manifest, cannot be written, or another run has it open.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._db = opened(path)

    @classmethod
    def copy(cls, path: Path | None) -> "Manifest":
        """Return a manifest in memory with the contents of a file, if there is one."""
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

    def begin(self, plan: Plan, *, is_named: bool = False) -> None:
        """Record the plan of a run, or check that it is the same as before.

        Args:
            is_named: The user has chosen where the manifest is.

        Raises:
            IdefiqError: The manifest is of another question or model.
        """
        identity = {"question": plan.ask.identity(), "model": plan.model}
        earlier = self._fact("identity") if self._has_chunks() else None
        for name, value in (earlier or {}).items():
            if value != identity[name]:
                raise IdefiqError(
                    f"{plan.out or 'this folder'!r} belongs to a run with another {name};"
                    " choose another --out, or use --fresh to ask everything again"
                )
        self._set_fact("identity", identity)
        self._set_fact("plan", asdict(plan))
        if self.path:
            self._set_fact("begun_in", os.path.relpath(Path.cwd(), self.path.parent.resolve()))
            self._set_fact("begun_at", str(Path.cwd()))
            self._set_fact("folder", os.path.relpath(self.path.parent.resolve(), Path.cwd()))
            self._set_fact("is_named", is_named)

    def begun_in(self) -> Path | None:
        """Folder that the plan's paths start from; None if version 0.1.0 began the run."""
        noted: str | None = self._fact("begun_in")
        if noted is None or self.path is None:
            return None
        return (self.path.parent.resolve() / noted).resolve()

    def follow(self) -> None:
        """Update paths in the manifest's folder if the folder was renamed with its contents."""
        begun_in, before = self.begun_in(), self._fact("folder")
        if begun_in is None or self.path is None or not before or before.startswith("."):
            return
        now = os.path.relpath(self.path.parent.resolve(), begun_in)
        if now == before:
            return

        def moved(path: Any) -> Any:
            inside = isinstance(path, str) and (path == before or path.startswith(f"{before}/"))
            return f"{now}{path[len(before) :]}" if inside else path

        def within(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: within(each) for name, each in value.items()}
            return [within(each) for each in value] if isinstance(value, list) else moved(value)

        rows = self._db.execute("SELECT number, key, source, location, columns, text FROM images")
        with self._writing() as db:
            for number, key, source, *encoded in rows.fetchall():
                row_values = [each and json.dumps(within(json.loads(each))) for each in encoded]
                db.execute(
                    "UPDATE images SET key = ?, source = ?, location = ?, columns = ?, text = ?"
                    " WHERE number = ?",
                    (moved(key), moved(source), *row_values, number),
                )
            plan = self._fact("plan")
            if plan:
                self._set_fact("plan", {**plan, **within({k: plan[k] for k in ("sources", "out")})})
            self._set_fact("folder", now)

    def begun_at(self) -> Path | None:
        """The same folder by its absolute path, as it was then."""
        noted: str | None = self._fact("begun_at")
        return Path(noted) if noted else None

    def has_plan(self) -> bool:
        """True if a run was begun."""
        return self._fact("plan") is not None

    @property
    def is_named(self) -> bool:
        """True if the user chose the manifest's path, so it need not be by the output."""
        return bool(self._fact("is_named"))

    def forget(self) -> None:
        """Make all images new; text files and earlier texts stay known."""
        with self._writing() as db:
            db.execute("DELETE FROM chunks")
            db.execute(f"UPDATE images SET {_NEW} WHERE state <> 'skipped'")  # noqa: S608
            # Those of a bucket wait until the bucket is listed again.
            db.execute("UPDATE images SET state = 'heard' WHERE bucket IS NOT NULL")

    def plan(self) -> Plan:
        """Return the plan of the last run.

        Raises:
            IdefiqError: None was.
        """
        stored = self._fact("plan")
        if stored is None:
            raise IdefiqError(f"{str(self.path)!r} is a manifest without a run")
        return Plan(**{**stored, "ask": Ask(**stored["ask"])})

    def _has_chunks(self) -> bool:
        return bool(self._db.execute("SELECT 1 FROM chunks").fetchone())

    def _fact(self, name: str) -> Any:
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return json.loads(row[0]) if row else None

    def _set_fact(self, name: str, value: Any) -> None:
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))

    # ---- what is there --------------------------------------------------------------

    def begin_scan(self, *, skip: bool) -> None:
        """Start a scan of the sources: images that it does not find are left out.

        Args:
            skip: Images that have a text already are not asked about.
        """
        self._set_fact("scan", self._scan() + 1)
        if not skip:
            self._db.execute(f"UPDATE images SET {_NEW} WHERE state = 'skipped'")  # noqa: S608

    def _scan(self) -> int:
        return int(self._fact("scan") or 0)

    def add(self, found: Sequence[Found], before: Before, *, skip: bool) -> None:
        """Record images. One that has changed since it was answered is new again.

        Args:
            found: Records with the places that their texts may have.
            before: Asked about a text file when its image is first heard of.
            skip: See begin_scan.
        """
        scan = self._scan()
        with self._writing() as db:
            for record, texts in found:
                self._add(db, record, scan)
                self._place(db, record.key, texts, before, skip=skip)

    def _add(self, db: sqlite3.Connection, record: Record, scan: int) -> None:
        columns = json.dumps(record.columns, ensure_ascii=False, default=str)
        row_values = (json.dumps(record.location), columns, record.stamp, scan, record.source)
        failed = ("failed", record.error, "unreadable") if record.error else ("new", None, None)
        known = db.execute(
            "SELECT state, stamp, chunk FROM images WHERE key = ?", (record.key,)
        ).fetchone()
        if known is None:
            db.execute(
                "INSERT INTO images (key, location, columns, stamp, scan, source, state, error,"
                " code) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (record.key, *row_values, *failed),
            )
            return
        state, stamp, chunk = known
        if state == "sent":  # its answer is on the way; if it has changed, the next run sees it
            db.execute("UPDATE images SET scan = ? WHERE key = ?", (scan, record.key))
            return
        db.execute(
            "UPDATE images SET location = ?, columns = ?, stamp = ?, scan = ?, source = ?"
            " WHERE key = ?",
            (*row_values, record.key),
        )
        # What was never sent is looked at again: the file may be mended, the words be others.
        unsent = state == "failed" and chunk is None
        if unsent or (stamp != record.stamp and state in ("done", "failed")):
            db.execute(
                f"UPDATE images SET {_NEW} WHERE key = ?",  # noqa: S608
                (record.key,),
            )
            db.execute(
                "UPDATE images SET state = ?, error = ?, code = ? WHERE key = ?",
                (*failed, record.key),
            )

    def _place(
        self,
        db: sqlite3.Connection,
        key: str,
        texts: Sequence[Path],
        before: Before,
        *,
        skip: bool,
    ) -> None:
        """Give an image a text file that no other image has, and record its contents."""
        taken = "SELECT 1 FROM images WHERE text = ?"
        [(state, text)] = db.execute("SELECT state, text FROM images WHERE key = ?", (key,))
        names = {json.dumps(str(path)): path for path in texts}
        if text in names or not texts:
            if text in names and state == "new":
                self._text_before(db, key, names[text], before)
            return
        free = next((name for name in names if not db.execute(taken, (name,)).fetchone()), None)
        if free is None:
            return
        there, is_refused = self._text_before(db, key, names[free], before)
        if is_refused and state == "new":
            state = "failed"
        if there is not None and skip and state == "new":
            state = "skipped"
        db.execute(
            "UPDATE images SET text = ?, before = ?, digests = '', written = 0, state = ?"
            " WHERE key = ?",
            (free, there, state, key),
        )

    @staticmethod
    def _text_before(
        db: sqlite3.Connection, key: str, path: Path, before: Before
    ) -> tuple[str | None, bool]:
        """Return the text of a file, and whether it must not be changed."""
        try:
            return before(path), False
        except IdefiqError as error:
            db.execute(
                "UPDATE images SET state = 'failed', error = ?, code = 'unreadable'"
                " WHERE key = ? AND state = 'new'",
                (str(error), key),
            )
            return None, True

    def _listed(self) -> str:
        """SQL condition for the images of this run.

        Those found by the last scan and those of buckets; and what was answered of sources that
        the scan did not look through, because they are not named now, or because of a limit.
        """
        plan = self._fact("plan") or {}
        words = [] if plan.get("limit") else plan.get("sources", ())
        looked = ", ".join(f"'{_quoted(word)}'" for word in words) or "''"
        return (
            f"(scan = {self._scan()} OR bucket IS NOT NULL"
            f" OR state IN ('done', 'failed') AND source NOT IN ({looked}))"
        )

    def counts(self) -> dict[str, int]:
        """Count images by state: new, sent, done, failed, skipped."""
        return dict(
            self._db.execute(
                f"SELECT state, count(*) FROM images WHERE {self._listed()} GROUP BY state"  # noqa: S608
            )
        )

    def images(self, *states: str) -> Iterator[Image]:
        """Yield images in some states, in source order; the manifest may be written meanwhile."""
        marks, last = ", ".join("?" * len(states)), 0
        while True:
            rows = self._db.execute(
                f"SELECT {COLUMNS} FROM images WHERE state IN ({marks}) AND number > ?"  # noqa: S608
                f" AND {self._listed()} ORDER BY number LIMIT 1000",
                (*states, last),
            ).fetchall()
            if not rows:
                return
            yield from map(image_of, rows)
            last = rows[-1][0]

    # ---- what was asked -------------------------------------------------------------

    def fail(self, image: Image, error: str, code: str) -> None:
        """Record that an image cannot be sent."""
        self._db.execute(
            "UPDATE images SET state = 'failed', error = ?, code = ? WHERE number = ?",
            (error, code, image.number),
        )

    def assign(self, asked: Sequence[tuple[Image, Item]], submission: dict[str, Any]) -> Chunk:
        """Make a chunk of images and their items, before it is submitted."""
        with self._writing() as db:
            chunk = self._add_chunk(None, submission)
            db.executemany(
                "UPDATE images SET state = 'sent', chunk = ?, place = ?, item = ? WHERE number = ?",
                [
                    (chunk.number, place, json.dumps(item, ensure_ascii=False), image.number)
                    for place, (image, item) in enumerate(asked)
                ],
            )
        return chunk

    def assign_bucket(self, source: str, submission: dict[str, Any]) -> None:
        """Make a chunk of a bucket, once."""
        known = "SELECT 1 FROM chunks WHERE source = ?"
        if not self._db.execute(known, (source,)).fetchone():
            self._add_chunk(source, submission)

    def _add_chunk(self, source: str | None, submission: dict[str, Any]) -> Chunk:
        key = f"idefiq-{secrets.token_hex(16)}"
        cursor = self._db.execute(
            "INSERT INTO chunks (key, source, said) VALUES (?, ?, ?)",
            (key, source, json.dumps(submission)),
        )
        return Chunk(int(cursor.lastrowid or 0), key, source, submission, None, None)

    def items(self, chunk: Chunk) -> list[Item]:
        """Items of a chunk's job, always the same, so that submitting again is safe."""
        rows = self._db.execute(
            "SELECT item FROM images WHERE chunk = ? ORDER BY place", (chunk.number,)
        )
        return [json.loads(row[0]) for row in rows]

    def submitted(self, chunk: Chunk, job_id: str) -> None:
        """Record a chunk's job."""
        self._db.execute("UPDATE chunks SET job_id = ? WHERE number = ?", (job_id, chunk.number))

    def dissolve(self, chunk: Chunk, place: int | None = None, error: str = "") -> None:
        """Undo a chunk that the service rejected; the image at `place` caused it, if any."""
        with self._writing() as db:
            db.execute(
                "UPDATE images SET state = 'failed', error = ?, code = 'refused', chunk = NULL,"
                " place = NULL WHERE chunk = ? AND place = ?",
                (error, chunk.number, place),
            )
            db.execute(
                f"UPDATE images SET {_NEW} WHERE chunk = ? AND state = 'sent'",  # noqa: S608
                (chunk.number,),
            )
            db.execute("DELETE FROM chunks WHERE number = ?", (chunk.number,))

    def open_chunks(self) -> list[Chunk]:
        """Chunks without all their answers."""
        rows = self._db.execute(
            "SELECT number, key, source, said, job_id, cursor FROM chunks WHERE NOT ended"
            " ORDER BY number"
        )
        return [
            Chunk(number, key, source, json.loads(submission), job_id, cursor)
            for number, key, source, submission, job_id, cursor in rows
        ]

    def job_ids(self) -> list[str]:
        """Jobs of this run."""
        rows = self._db.execute("SELECT job_id FROM chunks WHERE job_id IS NOT NULL")
        return [row[0] for row in rows]

    # ---- what was said --------------------------------------------------------------

    def take(self, chunk: Chunk, results: Sequence[Result], cursor: str | None) -> None:
        """Record a page of results, and where the next one starts."""
        with self._writing() as db:
            for result in results:
                db.execute(
                    "UPDATE images SET state = ?, answer = ?, error = ?, code = ?"
                    " WHERE chunk = ? AND place = ? AND state = 'sent'",
                    (*outcome(result), chunk.number, result.index),
                )
            db.execute("UPDATE chunks SET cursor = ? WHERE number = ?", (cursor, chunk.number))

    def hear_of(
        self, chunk: Chunk, found: Sequence[tuple[int, Found]], before: Before, *, skip: bool
    ) -> None:
        """Record images of a bucket, which are unknown before their answers.

        Args:
            found: Places in the job, with records.
        """
        with self._writing() as db:
            for place, (record, texts) in found:
                known = "SELECT 1 FROM images WHERE chunk = ? AND place = ?"
                if db.execute(known, (chunk.number, place)).fetchone():
                    continue
                self._add(db, record, self._scan())
                self._place(db, record.key, texts, before, skip=skip)
                # Not one whose text must stay as it is: its answer has no place.
                db.execute(
                    "UPDATE images SET state = CASE WHEN state = 'failed' THEN state ELSE 'sent'"
                    " END, bucket = ?, chunk = ?, place = ?"
                    " WHERE key = ?",
                    (chunk.source, chunk.number, place, record.key),
                )

    def end(self, chunk: Chunk) -> None:
        """Record that a chunk has all its answers."""
        self._db.execute("UPDATE chunks SET ended = 1 WHERE number = ?", (chunk.number,))

    def fail_bucket(self, chunk: Chunk, error: str) -> None:
        """Record that a bucket could not be listed; a retry makes a new chunk."""
        with self._writing() as db:
            self._add(db, Record(str(chunk.source), {}, {"file": chunk.source}, error=error), 0)
            db.execute("UPDATE images SET bucket = ? WHERE key = ?", (chunk.source, chunk.source))
            db.execute("DELETE FROM chunks WHERE number = ?", (chunk.number,))

    def unwritten(self) -> list[Image]:
        """Answered images whose text file was not checked, a thousand at most."""
        rows = self._db.execute(
            f"SELECT {COLUMNS} FROM images WHERE state = 'done' AND NOT written"  # noqa: S608
            " ORDER BY number LIMIT 1000"
        )
        return [image_of(row) for row in rows]

    def will_write(self, image: Image, before: str | None, digest: str) -> None:
        """Record what a text file will hold, so that it is recognized even after a crash."""
        digests = f"{digest} {image.digests}"[:80]
        self._db.execute(
            "UPDATE images SET before = ?, digests = ? WHERE number = ?",
            (before, digests, image.number),
        )

    def shards(self) -> list[str]:
        """Names of the shards that this run has written."""
        return list(self._fact("shards") or [])

    def wrote_shards(self, names: Sequence[str]) -> None:
        """Record those names."""
        self._set_fact("shards", list(names))

    def written(self, images: Sequence[Image]) -> None:
        """Record that text files are up to date."""
        with self._writing() as db:
            db.executemany(
                "UPDATE images SET written = 1 WHERE number = ?",
                [(image.number,) for image in images],
            )

    def retry(self, codes: Sequence[str] = ()) -> int:
        """Make failed images new again. Returns how many."""
        marks = ", ".join("?" * len(codes))
        some = f"state = 'failed'{f' AND code IN ({marks})' if codes else ''}"
        with self._writing() as db:
            lost = db.execute(
                f"DELETE FROM images WHERE {some} AND key = bucket",  # noqa: S608
                tuple(codes),
            )
            again = db.execute(
                # Also those of sources that the last run did not name.
                f"UPDATE images SET {_NEW}, scan = {self._scan()} WHERE {some}",  # noqa: S608
                tuple(codes),
            )
        return lost.rowcount + again.rowcount


def _quoted(text: str) -> str:
    return text.replace("'", "''")
