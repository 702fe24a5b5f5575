"""The chunks of a manifest: what was submitted as one job, and its answers."""

import json
import secrets
from collections.abc import Sequence
from typing import Any

from idefiq.bulk.images import Chunk, Image, outcome
from idefiq.bulk.manifest_file import ManifestFile
from idefiq.bulk.manifest_images import ASK_AGAIN, MAKE_NEW, Before, Found, ImageTable
from idefiq.bulk.records import Record
from idefiq.types import Item, Result

#: Record an error and its code; an image that was answered before keeps that answer.
FAIL = (
    "state = CASE WHEN answer IS NULL THEN 'failed' ELSE 'done' END,"
    " error = CASE WHEN answer IS NULL THEN ? END, code = ?"
)


class ChunkTable:
    """The chunks of a run.

    Args:
        images: Those of the same file.
    """

    def __init__(self, file: ManifestFile, images: ImageTable) -> None:
        self._file, self._db, self._images = file, file.db, images

    def assign(self, asked: Sequence[tuple[Image, Item]], submission: dict[str, Any]) -> Chunk:
        """Make a chunk of images and their items, before it is submitted."""
        with self._file.writing() as db:
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
        with self._file.writing() as db:
            db.execute(
                f"UPDATE images SET {FAIL}, chunk = NULL, place = NULL"  # noqa: S608
                " WHERE chunk = ? AND place = ?",
                (error, "refused", chunk.number, place),
            )
            db.execute(
                f"UPDATE images SET {ASK_AGAIN} WHERE chunk = ? AND state = 'sent'",  # noqa: S608
                (chunk.number,),
            )
            db.execute("DELETE FROM chunks WHERE number = ?", (chunk.number,))

    def unfinished(self) -> list[Chunk]:
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

    def take(self, chunk: Chunk, results: Sequence[Result], cursor: str | None) -> None:
        """Record a page of results, and where the next one starts."""
        with self._file.writing() as db:
            for result in results:
                state, *values = outcome(result)
                change = "state = 'done', answer = ?, error = ?, code = ?"
                if state == "failed":
                    change, values = FAIL, values[1:]
                db.execute(
                    f"UPDATE images SET {change}"  # noqa: S608
                    " WHERE chunk = ? AND place = ? AND state = 'sent'",
                    (*values, chunk.number, result.index),
                )
            db.execute("UPDATE chunks SET cursor = ? WHERE number = ?", (cursor, chunk.number))

    def hear_of(
        self, chunk: Chunk, found: Sequence[tuple[int, Found]], before: Before, *, skip: bool
    ) -> None:
        """Record images of a bucket, which are unknown before their answers.

        Args:
            found: Places in the job, with records.
        """
        with self._file.writing() as db:
            for place, (record, texts) in found:
                known = "SELECT 1 FROM images WHERE chunk = ? AND place = ?"
                if db.execute(known, (chunk.number, place)).fetchone():
                    continue
                self._images.insert(db, record)
                self._images.place(db, record.key, texts, before, skip=skip)
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
        with self._file.writing() as db:
            self._images.insert(
                db, Record(str(chunk.source), {}, {"file": chunk.source}, error=error), scan=0
            )
            db.execute("UPDATE images SET bucket = ? WHERE key = ?", (chunk.source, chunk.source))
            db.execute("DELETE FROM chunks WHERE number = ?", (chunk.number,))

    def forget(self) -> None:
        """Make all images new; text files and earlier texts stay known."""
        with self._file.writing() as db:
            db.execute("DELETE FROM chunks")
            db.execute(f"UPDATE images SET {MAKE_NEW} WHERE state <> 'skipped'")  # noqa: S608
            # Those of a bucket wait until the bucket is listed again.
            db.execute("UPDATE images SET state = 'heard' WHERE bucket IS NOT NULL")
