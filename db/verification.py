"""Compares the database with the blob store, as after a restore of one of the two.

store ─▶ each key: has a row?  ── no ─▶ unknown      rows ─▶ each key: in the store?
                                                          ├─ no ──────────▶ missing
                                                          ├─ other size ──▶ damaged
                                                          └─ read: other digest ─▶ damaged
"""

import hashlib
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum

from db import inventory
from db.blobs.store import BlobStore, Stored
from db.images import known_images
from db.inventory import Expected
from db.sql.database import Database
from db.vocabulary.errors import NotFound, RequestError, StorageError

#: Missing images are forgotten without being asked twice if they are no more than these.
MAX_FORGOTTEN, MAX_FORGOTTEN_SHARE = 100, 0.1
#: A younger blob without a row may be one whose row is about to be written.
UNKNOWN_AFTER_SECONDS = 86_400.0
#: An image that was uploaded straight to the store has its row when an item uses it.
UNKNOWN_IMAGE_AFTER_SECONDS = 7 * 86_400.0
_READ_BYTES = 2**20

log = logging.getLogger(__name__)


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
    stored: Stored | None = None


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
                self.blobs += sum(inventory.is_ours(one.key) for one in page)
                found.executemany(
                    "INSERT OR IGNORE INTO found VALUES (?, ?)",
                    [(one.key, one.size_bytes) for one in page],
                )
                for stored in unknown(self.database, page):
                    detail = f"{stored.size_bytes} bytes in no row"
                    yield Difference(DifferenceKind.UNKNOWN, stored.key, detail, stored=stored)
            for expected in self._expected():
                row = found.execute("SELECT size FROM found WHERE key = ?", (expected.key,))
                if difference := self._compare(expected, row.fetchone()):
                    yield difference

    def check_repairable(self, differences: Sequence[Difference]) -> None:
        """Reject repairs of a store that looks as if it were the wrong one, or not mounted.

        Raises:
            RequestError: So much is missing that forgetting it would be a loss.
        """
        gone = sum(one.kind is not DifferenceKind.UNKNOWN for one in differences)
        if gone > MAX_FORGOTTEN and gone > MAX_FORGOTTEN_SHARE * self.rows:
            raise RequestError(
                f"{gone} of {self.rows} blobs are missing or damaged: is this the right store, and"
                " is it mounted? If it is, repeat the command with --force"
            )

    def repair(self, difference: Difference) -> str:
        """Make a difference good as far as possible. Returns what was done."""
        expected = difference.expected
        if difference.stored:
            deleted = list(sweep(self.database, self.store, [difference.stored]))
            return "deleted" if deleted else "left: something may still need it"
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
        if self.read and "/images/" in expected.key and not self._is_whole(expected):
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

    def _is_whole(self, expected: Expected) -> bool:
        """True if an image has the bytes of its digest, or has been deleted meanwhile."""
        digest = hashlib.sha256()
        try:
            with self.store.open(expected.key) as stream:
                while piece := stream.read(_READ_BYTES):
                    digest.update(piece)
        except NotFound:
            with self.database.snapshot() as transaction:
                return not inventory.known_keys(transaction, [expected.key])
        return digest.hexdigest() == expected.name


def unknown(database: Database, page: list[Stored]) -> list[Stored]:
    """Return those blobs of ours that no row refers to, nor soon will.

    One that is older than its owner is of another database: this one is new, or not the right one.
    """
    old = [one for one in page if inventory.is_ours(one.key) and one.age_seconds > _grace(one.key)]
    if not old:
        return []
    with database.snapshot() as transaction:
        known = inventory.known_keys(transaction, [one.key for one in old])
        ages = inventory.owner_ages(transaction)
    return [
        one
        for one in old
        if one.key not in known and one.age_seconds < ages.get(one.key.partition("/")[0], 0.0)
    ]


def sweep(database: Database, store: BlobStore, found: list[Stored]) -> Iterator[str]:
    """Delete those unknown blobs that nobody can need any more; yields their keys.

    Images are none of them: an item that waits may name one that was uploaded straight to the
    store, and whoever uploads an image again relies on it. Nor is what would be written again.
    """
    for one in found:
        if not inventory.is_transient(one.key):
            continue
        with database.snapshot() as transaction:
            if inventory.known_keys(transaction, [one.key]):
                continue
        try:
            store.delete(one.key)
        except StorageError as error:
            log.warning("%s cannot be deleted: %s", one.key, error)
            continue
        yield one.key


def _grace(key: str) -> float:
    return UNKNOWN_IMAGE_AFTER_SECONDS if "/images/" in key else UNKNOWN_AFTER_SECONDS
