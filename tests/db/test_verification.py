"""What differs between the database and the blob store: found, and made good."""

import hashlib
import io
import os
import time
from pathlib import Path

import pytest

from db import inventory
from db.blobs.folder import FolderStore
from db.blobs.store import file_key, image_key, results_key, spool_key
from db.images import known_images
from db.openai import files
from db.openai.files import NewFile
from db.queue import jobs, results, submissions
from db.queue.submissions import NewJob
from db.sql.database import Database
from db.verification import Difference, Verification
from tests.db import builders

DAY = 86_400


class Record:
    """One blob of each kind with its row."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self.store = database, FolderStore(folder / "blobs")
        self.owner = builders.owner(database)
        self.digest = hashlib.sha256(b"an image").hexdigest()
        self.image = image_key(self.owner, self.digest)
        self.file = file_key(self.owner, "file-a")
        self.spool = spool_key(self.owner, "a")
        with database.transaction() as transaction:
            known_images.add(transaction, self.owner, {self.digest: 8})
            files.add(
                transaction,
                NewFile(
                    "file-a",
                    self.owner,
                    filename="a",
                    purpose="batch",
                    size_bytes=6,
                    expires_seconds=None,
                ),
            )
            submissions.create(
                transaction,
                NewJob(self.owner, builders.MODEL, {}, spool_key=self.spool, spool_lines=1),
            )
        self.job = builders.job(database)
        builders.complete(database, builders.claim(database, builders.session(database)))
        self.results = results_key(self.owner, self.job)
        with database.transaction() as transaction:
            results.record_results(transaction, self.job, self.results)
        for key, data in (
            (self.image, b"an image"),
            (self.file, b"a file"),
            (self.spool, b"a spool"),
            (self.results, b"results"),
        ):
            self.put(key, data)
        # What the builders have made a row of, without bytes.
        with database.transaction() as transaction:
            known_images.remove(transaction, self.owner, builders.DIGEST)

    def put(self, key: str, data: bytes, *, days: float = 0) -> str:
        self.store.put(key, io.BytesIO(data))
        then = time.time() - days * DAY
        os.utime(self.store.folder / key, (then, then))
        return key

    def differences(self, *, read: bool = False) -> list[Difference]:
        return list(Verification(self.database, self.store, read=read).differences())

    def found(self, *, read: bool = False) -> list[tuple[str, str]]:
        return sorted((str(one.kind), one.key) for one in self.differences(read=read))


@pytest.fixture
def record(database: Database, tmp_path: Path) -> Record:
    return Record(database, tmp_path)


def test_what_agrees_has_no_differences(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "PAGE_ROWS", 1)
    verification = Verification(record.database, record.store, read=True)

    assert list(verification.differences()) == []
    assert (verification.blobs, verification.rows) == (4, 4)


def test_each_kind_of_blob_is_missed(record: Record) -> None:
    for key in (record.image, record.file, record.spool, record.results):
        record.store.delete(key)

    assert record.found() == sorted(
        ("missing", key) for key in (record.image, record.file, record.spool, record.results)
    )


def test_a_cut_blob_is_damaged_and_one_that_rotted_when_it_is_read(record: Record) -> None:
    record.put(record.file, b"a fil")
    record.put(record.image, b"an imagf")

    assert record.found() == [("damaged", record.file)]
    assert record.found(read=True) == sorted([("damaged", record.file), ("damaged", record.image)])


def test_a_blob_in_no_row_is_unknown_unless_its_row_may_come(record: Record) -> None:
    old = [
        record.put(file_key(record.owner, "file-b"), b"x", days=2),
        record.put(spool_key(record.owner, "b"), b"x", days=2),
        record.put(results_key(record.owner, "job_none"), b"x", days=2),
        record.put(image_key(record.owner, "b" * 64), b"x", days=8),
        record.put(image_key(999, record.digest), b"x", days=8),
        record.put(f"{record.owner}/images/zz/{record.digest}", b"x", days=8),
        record.put(f"{record.owner}/spool/.new-abc", b"x", days=2),
        record.put("elsewhere", b"x", days=2),
    ]
    record.put(file_key(record.owner, "file-c"), b"x")
    record.put(image_key(record.owner, "c" * 64), b"x", days=6)

    assert record.found() == sorted(("unknown", key) for key in old)


def test_a_repair_makes_good_what_can_be(record: Record) -> None:
    record.put(record.image, b"an imagf")
    record.store.delete(record.results)
    unknown = record.put(file_key(record.owner, "file-b"), b"x", days=2)
    verification = Verification(record.database, record.store, read=True)

    done = {one.key: verification.repair(one) for one in verification.differences()}

    assert done == {
        unknown: "deleted",
        record.image: "forgotten: the next upload stores it again",
        record.results: "left: only a backup of the store has it",
    }
    assert record.found(read=True) == [("missing", record.results)]
    with record.database.snapshot() as transaction:
        assert jobs.get(transaction, record.owner, record.job).results_key
