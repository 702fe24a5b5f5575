"""The images of a manifest: where they are, in which state, and their text files."""

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from idefiq.bulk.images import COLUMNS, Image, image_of
from idefiq.bulk.manifest_file import ManifestFile
from idefiq.bulk.records import Record
from idefiq.errors import IdefiqError

#: A record, and where its text file may be.
Found = tuple[Record, Sequence[Path]]
#: Reads the text of an existing file, None without one; raises if it must not be changed.
Before = Callable[[Path], str | None]

#: SQL that makes an image new again.
#: Ask again; an answer that is there stays until there is another.
ASK_AGAIN = (
    "state = 'new', item = NULL, chunk = NULL, place = NULL, error = NULL, code = NULL, written = 0"
)
MAKE_NEW = f"{ASK_AGAIN}, answer = NULL"


class ImageTable:
    """The images of a run."""

    def __init__(self, file: ManifestFile) -> None:
        self._file, self._db = file, file.db

    def begin_scan(self, *, skip: bool) -> None:
        """Start a scan of the sources: images that it does not find are left out.

        Args:
            skip: Images that have a text already are not asked about.
        """
        self._file.set_fact("scan", self._scan() + 1)
        if not skip:
            self._db.execute(f"UPDATE images SET {MAKE_NEW} WHERE state = 'skipped'")  # noqa: S608

    def _scan(self) -> int:
        return int(self._file.fact("scan") or 0)

    def add(self, found: Sequence[Found], before: Before, *, skip: bool) -> None:
        """Record images. One that has changed since it was answered is new again.

        Args:
            found: Records with the places that their texts may have.
            before: Asked about a text file when its image is first heard of.
            skip: See begin_scan.
        """
        scan = self._scan()
        with self._file.writing() as db:
            for record, texts in found:
                self.insert(db, record, scan=scan)
                self.place(db, record.key, texts, before, skip=skip)

    def insert(self, db: sqlite3.Connection, record: Record, *, scan: int | None = None) -> None:
        """Insert an image, or update what is known of it; as found by the last scan if None."""
        scan = self._scan() if scan is None else scan
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
                f"UPDATE images SET {MAKE_NEW} WHERE key = ?",  # noqa: S608
                (record.key,),
            )
            db.execute(
                "UPDATE images SET state = ?, error = ?, code = ? WHERE key = ?",
                (*failed, record.key),
            )

    def place(
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
        plan = self._file.fact("plan") or {}
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

    def in_state(self, *states: str) -> Iterator[Image]:
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

    def fail(self, image: Image, error: str, code: str) -> None:
        """Record that an image cannot be sent."""
        self._db.execute(
            "UPDATE images SET state = 'failed', error = ?, code = ? WHERE number = ?",
            (error, code, image.number),
        )

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

    def written(self, images: Sequence[Image]) -> None:
        """Record that text files are up to date."""
        with self._file.writing() as db:
            db.executemany(
                "UPDATE images SET written = 1 WHERE number = ?",
                [(image.number,) for image in images],
            )

    def retry(self, codes: Sequence[str] = (), issues: Sequence[str] = ()) -> int:
        """Ask again about failed images, or answered ones. Returns how many.

        An answered image keeps its answer until it has another; see `keep_answers`.

        Args:
            codes: Failed images with one of these error codes.
            issues: Answered images with one of these issues, "any" for all. Without codes and
                issues all failed images are meant.
        """
        wanted, values = [], [*codes]
        if codes:
            wanted.append(f"state = 'failed' AND code IN ({', '.join('?' * len(codes))})")
        elif not issues:
            wanted.append("state = 'failed'")
        if issues:
            found = "COALESCE(json_extract(answer, '$.issues'), '[]')"
            some = [f"{found} <> '[]'" if one == "any" else f"{found} LIKE ?" for one in issues]
            wanted.append(f"state = 'done' AND ({' OR '.join(some)})")
            values += [f'%"{one}"%' for one in issues if one != "any"]
        chosen = " OR ".join(f"({one})" for one in wanted)
        with self._file.writing() as db:
            lost = db.execute(
                f"DELETE FROM images WHERE ({chosen}) AND key = bucket",  # noqa: S608
                values,
            )
            again = db.execute(
                # Also those of sources that the last run did not name.
                f"UPDATE images SET {ASK_AGAIN}, scan = {self._scan()} WHERE {chosen}",  # noqa: S608
                values,
            )
        return lost.rowcount + again.rowcount

    def keep_answers(self) -> None:
        """Drop what is left of a retry: an image that has an answer is done with it."""
        self._db.execute(
            "UPDATE images SET state = 'done' WHERE state = 'new' AND answer IS NOT NULL"
        )

    def ended(self) -> Iterator[Image]:
        """Yield images that have an answer, be it an earlier one, or have failed."""
        for image in self.in_state("done", "failed", "sent"):
            if image.state != "sent" or image.answer is not None:
                yield image

    def kept(self) -> int:
        """Count answered images whose retry failed, so that they keep their earlier answer."""
        query = "SELECT count(*) FROM images WHERE state = 'done' AND code IS NOT NULL"
        [count] = self._db.execute(query).fetchone()
        return int(count)


def _quoted(text: str) -> str:
    return text.replace("'", "''")
