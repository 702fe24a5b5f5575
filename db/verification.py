"""Compares the database with the blob store, as after a restore of one of the two.

store ─▶ each key: has a row?  ── no ─▶ unknown      rows ─▶ each key: in the store?
                                                          ├─ no ──────────▶ missing
                                                          ├─ other size ──▶ damaged
                                                          └─ read: other digest ─▶ damaged
"""

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum

from db import inventory
from db.blobs.store import BlobStore, Stored
from db.images import known_images
from db.inventory import Expected
from db.sql.database import Database
from db.vocabulary.errors import NotFound

#: A younger blob without a row may be one whose row is about to be written.
UNKNOWN_AFTER_SECONDS = 86_400.0
#: An image that was uploaded straight to the store has its row when an item uses it.
UNKNOWN_IMAGE_AFTER_SECONDS = 7 * 86_400.0
_READ_BYTES = 2**20


class DifferenceKind(StrEnum):
    """How a blob and the database differ."""

    MISSING = "missing"
    DAMAGED = "damaged"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Difference:
    """A blob that differs from what the database says."""

    kind: DifferenceKind
    key: str
    detail: str
    expected: Expected | None = None


@dataclass(slots=True)
class Verification:
    """One comparison of everything.

    Args:
        read: Read every image, and compare its digest with its name.

    Attributes:
        blobs: Blobs that the store has, so far.
        rows: Blobs that rows refer to, so far.
    """

    database: Database
    store: BlobStore
    read: bool = False
    blobs: int = 0
    rows: int = 0

    def differences(self) -> Iterator[Difference]:
        """Yield what differs. Nothing is changed."""
        # In a file when it grows: there may be more keys than fit into memory.
        with closing(sqlite3.connect("", isolation_level=None)) as found:
            found.execute("CREATE TABLE found (key TEXT PRIMARY KEY, size INTEGER) WITHOUT ROWID")
            found.execute("BEGIN")
            for page in self.store.pages():
                self.blobs += len(page)
                found.executemany(
                    "INSERT OR IGNORE INTO found VALUES (?, ?)",
                    [(one.key, one.size_bytes) for one in page],
                )
                for stored in unknown(self.database, page):
                    yield Difference(
                        DifferenceKind.UNKNOWN, stored.key, f"{stored.size_bytes} bytes in no row"
                    )
            for expected in self._expected():
                row = found.execute("SELECT size FROM found WHERE key = ?", (expected.key,))
                if difference := self._compare(expected, row.fetchone()):
                    yield difference

    def repair(self, difference: Difference) -> str:
        """Make a difference good as far as possible. Returns what was done."""
        expected = difference.expected
        if difference.kind is DifferenceKind.UNKNOWN:
            self.store.delete(difference.key)
            return "deleted"
        if expected and "/images/" in difference.key:
            with self.database.transaction() as transaction:
                known_images.remove(transaction, expected.owner_id, expected.name)
            return "forgotten: the next upload stores it again"
        return "left: only a backup of the store has it"

    def _expected(self) -> Iterator[Expected]:
        for read_page in inventory.PAGES:
            last: Expected | None = None
            while True:
                with self.database.snapshot() as transaction:
                    page = read_page(transaction, last)
                self.rows += len(page)
                yield from page
                if not page:
                    break
                last = page[-1]

    def _compare(self, expected: Expected, row: tuple[int] | None) -> Difference | None:
        if row is None and not self._is_stored(expected.key):
            return Difference(DifferenceKind.MISSING, expected.key, "not in the store", expected)
        if row and expected.size_bytes not in (None, row[0]):
            detail = f"{row[0]} bytes; the database says {expected.size_bytes}"
            return Difference(DifferenceKind.DAMAGED, expected.key, detail, expected)
        if self.read and "/images/" in expected.key and self._digest(expected.key) != expected.name:
            detail = "its bytes are not those of its digest"
            return Difference(DifferenceKind.DAMAGED, expected.key, detail, expected)
        return None

    def _is_stored(self, key: str) -> bool:
        """True if a blob has come since the store was listed."""
        try:
            self.store.open(key).close()
        except NotFound:
            return False
        return True

    def _digest(self, key: str) -> str:
        digest = hashlib.sha256()
        with self.store.open(key) as stream:
            while piece := stream.read(_READ_BYTES):
                digest.update(piece)
        return digest.hexdigest()


def unknown(database: Database, page: list[Stored]) -> list[Stored]:
    """Return those of some blobs that no row refers to, nor soon will."""
    old = [
        one
        for one in page
        if one.age_seconds
        > (UNKNOWN_IMAGE_AFTER_SECONDS if "/images/" in one.key else UNKNOWN_AFTER_SECONDS)
    ]
    if not old:
        return []
    with database.snapshot() as transaction:
        known = inventory.known_keys(transaction, [one.key for one in old])
    return [one for one in old if one.key not in known]
