"""What is kept no longer is removed whole, and nothing else is."""

import hashlib
import io
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from db.blobs.store import file_key, image_key, results_key, spool_key
from db.images import collection, known_images
from db.openai import batches
from db.openai.batch import NewBatch
from db.queue import jobs, retention, submissions
from db.queue.submissions import NewItem, NewJob
from db.sql.database import Database
from db.vocabulary.errors import NotFound, NotReady
from db.vocabulary.states import SourceApi
from db.webhooks import endpoints, outbox
from tests import servers
from tests.db import builders
from tests.workers import parts
from workers.settings import UpkeepSettings
from workers.upkeep import retention as retention_module
from workers.upkeep.retention import Retention
from workers.upkeep.turns import Turns, UpkeepStep


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention_module, "PURGED_ROWS", 3)


def keep(database: Database, folder: Path, **settings: Any) -> None:
    """Delete and collect what is due."""
    settings_ = UpkeepSettings.model_validate(settings)
    retention_ = Retention(database, parts.store(folder), settings_)

    def look() -> list[UpkeepStep]:
        with database.snapshot() as transaction:
            return retention_.steps(transaction, most=100)

    retention_.delete_old()
    turns = Turns(look, threading.Event())
    while turns.run():
        pass


def image(database: Database, folder: Path, content: str) -> str:
    """A good image that is really in the store."""
    owner_id, digest = builders.owner(database), hashlib.sha256(content.encode()).hexdigest()
    parts.store(folder).put(image_key(owner_id, digest), io.BytesIO(content.encode()))
    return builders.checked_image(database, owner_id, digest)


def is_stored(database: Database, folder: Path, reference: str) -> bool:
    """Whether the bytes are there; row and bytes have to agree."""
    owner_id, digest = builders.owner(database), reference.removeprefix("blob:")
    with database.transaction() as transaction:
        row = digest in known_images.stored(transaction, owner_id, [digest])
    try:
        parts.store(folder).get(image_key(owner_id, digest))
    except NotFound:
        assert not row
        return False
    return True


def run(database: Database, references: list[str], **job: Any) -> str:
    """A job about images, from its submission to its end."""
    job_id = submit(database, references, **job)
    session = builders.session(database)
    while taken := builders.claim(database, session):
        builders.complete(database, taken)
    return job_id


def submit(database: Database, references: list[str], **job: Any) -> str:
    new = NewJob(builders.owner(database), builders.MODEL, job.pop("defaults", {}), **job)
    items = [NewItem({"images": [reference]}) for reference in references]
    with database.transaction() as transaction:
        return builders.submit(transaction, new, items)


def age(database: Database, days: float) -> None:
    """Let everything be that much older."""
    columns = ("jobs.finished_at", "blobs.used_at", "blobs.collecting_at")
    builders.age(database, int(days * 86_400), *columns)


def delete(database: Database, job_id: str) -> None:
    owner_id = builders.owner(database)
    with database.transaction() as transaction:
        retention.soft_delete_job(transaction, owner_id, job_id)


def rows(database: Database, table: str) -> int:
    with database.snapshot() as transaction:
        return int(transaction.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


class TestJobs:
    def test_a_deleted_job_is_gone_at_once_and_removed_with_all_it_has(
        self, database: Database, tmp_path: Path
    ) -> None:
        owner_id = builders.owner(database)
        with database.transaction() as transaction:
            endpoints.add(transaction, owner_id, "https://example.com/", ())
        job_id = run(database, [image(database, tmp_path, f"{n}") for n in range(8)])
        parts.upkeep(database, tmp_path).run_once()
        parts.store(tmp_path).get(results_key(owner_id, job_id))

        delete(database, job_id)

        with pytest.raises(NotFound), database.snapshot() as transaction:
            jobs.get(transaction, owner_id, job_id)
        keep(database, tmp_path)
        assert [rows(database, table) for table in ("jobs", "items", "deliveries")] == [0, 0, 0]
        with pytest.raises(NotFound):
            parts.store(tmp_path).get(results_key(owner_id, job_id))

    def test_a_job_that_runs_is_not_deleted(self, database: Database) -> None:
        job_id = builders.job(database)

        with pytest.raises(NotReady, match="cancel it"):
            delete(database, job_id)

    def test_a_deleted_jobs_idempotency_key_makes_a_new_one(
        self, database: Database, tmp_path: Path
    ) -> None:
        reference = image(database, tmp_path, "a")
        first = run(database, [reference], idempotency_key="once", body_digest="x")
        delete(database, first)

        second = submit(database, [reference], idempotency_key="once", body_digest="y")

        assert second != first

    def test_jobs_are_kept_as_long_as_the_settings_say(
        self, database: Database, tmp_path: Path
    ) -> None:
        reference = image(database, tmp_path, "a")
        run(database, [reference])
        run(database, [reference], source_api=SourceApi.CHAT)
        waiting = submit(database, [reference])
        settings = {"keep_jobs_days": 10, "keep_chats_days": 2}

        left = []
        for days in (1, 5, 9):  # 1, 6, 15 days old
            age(database, days)
            keep(database, tmp_path, **settings)
            left.append(rows(database, "jobs"))

        assert left == [3, 2, 1]
        assert builders.counts(database, waiting) == {"queued": 1}

    def test_a_job_is_kept_until_its_webhooks_are_delivered(
        self, database: Database, tmp_path: Path
    ) -> None:
        owner_id = builders.owner(database)
        with database.transaction() as transaction:
            endpoints.add(transaction, owner_id, "https://example.com/", ())
        run(database, [image(database, tmp_path, "a")])
        age(database, 9)

        keep(database, tmp_path, keep_jobs_days=1)
        before = rows(database, "jobs")
        with database.transaction() as transaction:
            [(delivery, _)] = outbox.take_due(transaction, 10)
            outbox.delivered(transaction, delivery.id, 204)
        keep(database, tmp_path, keep_jobs_days=1)

        assert (before, rows(database, "jobs")) == (1, 0)

    def test_a_batch_goes_with_its_job_once_its_files_are_written(
        self, database: Database, tmp_path: Path
    ) -> None:
        owner_id = builders.owner(database)
        new = NewBatch(owner_id, "file-1", "/v1/chat/completions", "24h", 86400, None, None,
                       request_key="a", body_digest="b")  # fmt: skip
        job = NewJob(owner_id, builders.MODEL, {}, source_api=SourceApi.BATCH)
        with database.transaction() as transaction:
            batch = batches.create_once(transaction, new, again=False)
            batches.start(transaction, batch, job)
            batch = batches.get(transaction, owner_id, batch.id)
            submissions.seal(transaction, str(batch.job_id))
        with pytest.raises(NotReady, match="files are being written"):
            delete(database, str(batch.job_id))
        with database.transaction() as transaction:
            batches.finalize(
                transaction, batch.id, output_file_id=None, error_file_id=None, usage={}
            )

        delete(database, str(batch.job_id))
        keep(database, tmp_path)

        assert [rows(database, table) for table in ("jobs", "batches")] == [0, 0]


class TestImages:
    def test_an_image_goes_when_it_is_old_and_in_no_job_any_more(
        self, database: Database, tmp_path: Path
    ) -> None:
        free, used, gone = (image(database, tmp_path, name) for name in ("free", "used", "gone"))
        run(database, [used])
        delete(database, run(database, [gone]))
        keep(database, tmp_path)
        left = []

        for days in (20, 20, 1):
            age(database, days)
            keep(database, tmp_path, keep_images_days=30)
            left.append([is_stored(database, tmp_path, one) for one in (free, used, gone)])

        assert left == [[True] * 3, [True] * 3, [False, True, False]]

    def test_an_image_of_a_jobs_shared_example_is_used(
        self, database: Database, tmp_path: Path
    ) -> None:
        example, other = (image(database, tmp_path, name) for name in ("example", "other"))
        run(database, [other], defaults={"examples": [{"image": example, "text": "a"}]})

        for _ in range(2):
            age(database, 40)
            keep(database, tmp_path)

        assert is_stored(database, tmp_path, example)

    def test_many_images_are_listed_page_by_page(self, database: Database, tmp_path: Path) -> None:
        made = [image(database, tmp_path, f"{n}") for n in range(11)]
        run(database, made[::2])

        for _ in range(2):
            age(database, 40)
            keep(database, tmp_path)

        assert [is_stored(database, tmp_path, one) for one in made] == [True, False] * 5 + [True]

    @pytest.mark.parametrize("use", ["known", "submit"])
    def test_a_marked_image_that_is_used_again_is_kept(
        self, use: str, database: Database, tmp_path: Path
    ) -> None:
        reference, owner_id = image(database, tmp_path, "a"), builders.owner(database)
        age(database, 40)
        keep(database, tmp_path)

        if use == "submit":
            submit(database, [reference])
        else:
            with database.transaction() as transaction:
                known_images.mark_used(transaction, owner_id, [reference.removeprefix("blob:")])
        age(database, 1)
        keep(database, tmp_path)

        assert is_stored(database, tmp_path, reference)
        if use == "submit":
            [lease] = builders.claim(database, builders.session(database))
            assert lease.images == [reference]

    def test_a_marked_image_is_not_known(self, database: Database, tmp_path: Path) -> None:
        reference, owner_id = image(database, tmp_path, "a"), builders.owner(database)
        age(database, 40)
        keep(database, tmp_path)

        with database.snapshot() as transaction:
            digest = reference.removeprefix("blob:")
            assert known_images.stored(transaction, owner_id, [digest]) == set()
            assert known_images.get(transaction, owner_id, [digest]) == {}

    def test_an_image_is_removed_at_once_on_request(
        self, database: Database, tmp_path: Path
    ) -> None:
        reference, owner_id = image(database, tmp_path, "a"), builders.owner(database)
        digest = reference.removeprefix("blob:")
        with database.transaction() as transaction:
            collection.delete_image(transaction, owner_id, digest)
            known_images.mark_used(
                transaction, owner_id, [digest]
            )  # naming it does not bring it back

        keep(database, tmp_path, keep_images_days=0)

        assert not is_stored(database, tmp_path, reference)
        with pytest.raises(NotFound), database.transaction() as transaction:
            collection.delete_image(transaction, owner_id, digest)

    def test_an_old_mark_is_never_taken_back(self, database: Database, tmp_path: Path) -> None:
        """Its bytes may be gone already, if somebody died while removing it."""
        reference, owner_id = image(database, tmp_path, "a"), builders.owner(database)
        digest = reference.removeprefix("blob:")
        age(database, 40)
        keep(database, tmp_path)
        parts.store(tmp_path).delete(image_key(owner_id, digest))
        age(database, 1)

        with database.transaction() as transaction:
            known_images.mark_used(transaction, owner_id, [digest])
            assert known_images.stored(transaction, owner_id, [digest]) == set()
            known_images.mark_used(transaction, owner_id, [digest], storing=True)

        assert image(database, tmp_path, "a") == reference
        assert is_stored(database, tmp_path, reference)

    def test_an_image_that_was_removed_can_be_stored_again(
        self, database: Database, tmp_path: Path
    ) -> None:
        for _ in range(2):
            reference = image(database, tmp_path, "a")
            assert is_stored(database, tmp_path, reference)
            for _ in range(2):
                age(database, 40)
                keep(database, tmp_path)
            assert not is_stored(database, tmp_path, reference)

    def test_with_0_days_images_are_kept_for_ever(self, database: Database, tmp_path: Path) -> None:
        reference = image(database, tmp_path, "a")
        for _ in range(2):
            age(database, 4000)
            keep(database, tmp_path, keep_images_days=0)

        assert is_stored(database, tmp_path, reference)


class TestSweep:
    def test_what_a_submission_left_behind_is_deleted_after_a_day_and_nothing_else(
        self, database: Database, tmp_path: Path
    ) -> None:
        kept = image(database, tmp_path, "kept")
        store, owner_id = parts.store(tmp_path), builders.owner(database)
        builders.age(database, 30 * 86_400, "owners.created_at")
        left = [image_key(owner_id, kept.removeprefix("blob:")), image_key(owner_id, "c" * 64)]
        store.put(left[1], io.BytesIO(b"uploaded straight to the store"))
        for name, days in (("a" * 32, 2), ("b" * 32, 0)):
            for key in (spool_key(owner_id, name), file_key(owner_id, f"file-{name[:28]}")):
                store.put(key, io.BytesIO(b"x"))
                then = time.time() - days * 86_400
                os.utime(store.folder / key, (then, then))
                left += [] if days else [key]
        os.utime(store.folder / left[1], (0, 0))

        for _ in Retention(database, store, UpkeepSettings()).sweep():
            pass

        assert sorted(one.key for page in store.pages() for one in page) == sorted(left)

    def test_it_is_a_step_of_upkeep_from_time_to_time_also_if_it_fails(
        self, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = parts.store(tmp_path)
        found = Retention(database, store, UpkeepSettings(collect_hours=0.5e-3))

        def names() -> list[str]:
            with database.snapshot() as transaction:
                return [step.name for step in found.steps(transaction, 10)]

        servers.wait_until(lambda: "sweep" in names())
        monkeypatch.setattr(store, "pages", lambda: iter([None]))
        with pytest.raises(TypeError):
            list(found.sweep())
        assert "sweep" not in names()
