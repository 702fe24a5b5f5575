"""What differs between the database and the blob store: found, and made good."""

import hashlib
import io
import os
import time
from pathlib import Path

import pytest

from db import inventory
from db import verification as verification_module
from db.blobs.folder import FolderStore
from db.blobs.store import Stored, file_key, image_key, results_key, spool_key
from db.images import known_images
from db.openai import files
from db.openai.files import NewFile
from db.queue import jobs, results, submissions
from db.queue.jobs import new_id
from db.queue.submissions import NewJob
from db.sql.database import Database
from db.verification import Difference, Verification, sweep
from db.vocabulary.errors import NotFound, RequestError
from tests.db import builders

DAY = 86_400
FILE = new_id("file-")


class Record:
    """One blob of each kind with its row."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self.store = database, FolderStore(folder / "blobs")
        self.owner = builders.owner(database)
        self.digest = hashlib.sha256(b"an image").hexdigest()
        self.image = image_key(self.owner, self.digest)
        self.file = file_key(self.owner, FILE)
        self.spool = spool_key(self.owner, "a" * 32)
        with database.transaction() as transaction:
            known_images.add(transaction, self.owner, {self.digest: 8})
            files.add(
                transaction,
                NewFile(
                    FILE,
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
        self.let_owners_be_old()
        # What the builders have made a row of, without bytes.
        with database.transaction() as transaction:
            known_images.remove(transaction, self.owner, builders.DIGEST)

    def let_owners_be_old(self) -> None:
        builders.age(self.database, 30 * DAY, "owners.created_at")

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


def test_a_blob_of_ours_in_no_row_is_unknown_unless_its_row_may_come(record: Record) -> None:
    old = [
        record.put(file_key(record.owner, new_id("file-")), b"x", days=2),
        record.put(spool_key(record.owner, "b" * 32), b"x", days=2),
        record.put(results_key(record.owner, new_id("job_")), b"x", days=2),
        record.put(image_key(record.owner, "b" * 64), b"x", days=8),
        record.put(f"{record.owner}/images/zz/{record.digest}".replace("zz", "0f"), b"x", days=8),
        record.put(f"{record.owner}/spool/.new-{'0' * 16}", b"x", days=2),
    ]
    record.put(file_key(record.owner, new_id("file-")), b"x")
    record.put(image_key(record.owner, "c" * 64), b"x", days=6)

    assert record.found() == sorted(("unknown", key) for key in old)


FOREIGN = [
    "api-key",
    "backup.tar.gz",
    "photos/2026/cat.jpg",
    "staging/1/files/file-0123456789abcdef0123456789ab",
    "1/notes.txt",
    "1/files/report.pdf",
    "1/spool/readme.jsonl",
]


def test_what_is_not_of_our_form_is_never_touched(record: Record) -> None:
    for key in FOREIGN:
        record.put(key, b"somebody else's", days=99)
    verification = Verification(record.database, record.store)

    assert list(verification.differences()) == []
    assert verification.blobs == 4


def test_a_new_or_wrong_database_calls_nothing_unknown(record: Record) -> None:
    """Its owners are younger than the blobs, or there are none of those ids."""
    record.put(file_key(record.owner, new_id("file-")), b"x", days=50)
    record.put(file_key(999, new_id("file-")), b"x", days=2)

    assert record.found() == []


def test_a_repair_makes_good_what_can_be(record: Record) -> None:
    record.put(record.image, b"an imagf")
    record.store.delete(record.results)
    upload = record.put(file_key(record.owner, new_id("file-")), b"x", days=2)
    # It may be of a direct upload that an item names which nobody has looked at yet.
    direct = record.put(image_key(record.owner, "b" * 64), b"x", days=8)
    # Its batch's files are written again under the same names.
    written = record.put(file_key(record.owner, new_id("file-") + "-output"), b"x", days=8)
    verification = Verification(record.database, record.store, read=True)

    done = {one.key: verification.repair(one) for one in verification.differences()}

    assert done == {
        upload: "deleted",
        direct: "left: something may still need it",
        written: "left: something may still need it",
        record.image: "forgotten: the next upload stores it again",
        record.results: "left: only a backup of the store has it",
    }
    with record.database.snapshot() as transaction:
        assert jobs.get(transaction, record.owner, record.job).results_key


def test_a_store_that_is_not_there_is_not_repaired(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification_module, "MAX_FORGOTTEN", 1)
    for key in (record.image, record.file):
        record.store.delete(key)
    verification = Verification(record.database, record.store)

    with pytest.raises(RequestError, match="mounted"):
        verification.check_repairable(list(verification.differences()))


def test_an_image_that_is_deleted_while_it_is_compared_is_no_difference(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(key: str, offset: int = 0) -> io.BytesIO:
        with record.database.transaction() as transaction:
            known_images.remove(transaction, record.owner, record.digest)
        raise NotFound(key)

    monkeypatch.setattr(record.store, "open", gone)

    assert record.found(read=True) == []


def test_a_blob_whose_row_comes_while_others_are_swept_stays(record: Record) -> None:
    key = record.put(record.file, b"a file", days=2)

    assert list(sweep(record.database, record.store, [Stored(key, 6, 2 * DAY)])) == []
    assert record.store.get(key) == b"a file"
