"""Jobs whose items come from elsewhere: from a bucket, or from an earlier job."""

import threading

import pytest

from db.queue import imports, jobs, retries, submissions
from db.queue.jobs import Job
from db.queue.retries import Retry
from db.queue.submissions import NewItem, NewJob
from db.sql.database import Database
from db.vocabulary.errors import IdempotencyConflict, NotReady, RequestError
from db.vocabulary.limits import OwnerLimits
from db.vocabulary.states import JobState
from tests.db import builders

SOURCE = "s3://photos/2026/"


def job(database: Database, job_id: str) -> Job:
    with database.snapshot() as transaction:
        return jobs.several(transaction, [job_id])[0]


def of_bucket(database: Database) -> Job:
    new = NewJob(builders.owner(database), builders.MODEL, {}, source=SOURCE)
    with database.transaction() as transaction:
        return job_in(transaction, submissions.create(transaction, new))


def job_in(transaction: object, job_id: str) -> Job:
    return jobs.several(transaction, [job_id])[0]  # type: ignore[arg-type]


def items(*names: str) -> list[NewItem]:
    return [NewItem({"images": [f"{SOURCE}{name}"]}, name) for name in names]


class TestListing:
    def test_pages_become_items_and_the_job_can_be_sealed_after_the_last(
        self, database: Database
    ) -> None:
        made = of_bucket(database)
        for names, last in ((("a", "b"), "2026/b"), (("c",), "2026/c"), ((), None)):
            with database.transaction() as transaction:
                assert imports.list_page(
                    transaction, job_in(transaction, made.id), items(*names), last=last
                )
                submissions.seal(transaction, made.id)
                sealed = job_in(transaction, made.id).sealed_at is not None
            assert sealed is (last is None)

        assert job(database, made.id).total == 3
        assert builders.counts(database, made.id) == {"queued": 3}

    def test_a_page_listed_twice_at_once_is_imported_once(self, database: Database) -> None:
        made, wrote = of_bucket(database), []

        def write() -> None:
            with database.transaction() as transaction:
                wrote.append(imports.list_page(transaction, made, items("a", "b"), last="2026/b"))

        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert sorted(wrote) == [False, False, False, True]
        assert builders.counts(database, made.id) == {"queued": 2}

    def test_a_cancelled_job_is_listed_no_further(self, database: Database) -> None:
        made = of_bucket(database)
        with database.transaction() as transaction:
            jobs.cancel(transaction, made.owner_id, made.id)
            assert not imports.list_page(transaction, made, items("a"), last="2026/a")
            submissions.seal(transaction, made.id)

        assert job(database, made.id).state is JobState.CANCELLED


def fail(database: Database, job_id: str, count: int) -> None:
    """Fail some items of a job for good and answer the others."""
    taken = builders.claim(database, builders.session(database))
    builders.complete(database, taken[count:])
    builders.fail(database, taken[:count])
    assert job(database, job_id).finished_at


def retry(database: Database, job_id: str, *codes: str, key: str | None = None) -> str:
    with database.transaction() as transaction:
        earlier = job_in(transaction, job_id)
        return retries.retry(
            transaction, earlier, Retry(codes), key, OwnerLimits(), lambda request: None
        )


class TestRetrying:
    def test_what_failed_becomes_a_job_of_its_own(self, database: Database) -> None:
        made = builders.job(database, items=5, name="august", defaults={"kind": "caption"})
        fail(database, made, 2)

        again = retry(database, made)

        new = job(database, again)
        assert (new.total, new.name, new.defaults) == (2, "august", {"kind": "caption"})
        taken = builders.claim(database, builders.session(database, "w2"))
        assert [lease.request["prompt"] for lease in taken] == ["number 0", "number 1"]
        assert builders.counts(database, made) == {"succeeded": 3, "failed": 2}
        assert builders.counts(database, again) == {"running": 2}

    def test_only_some_errors_may_be_meant(self, database: Database) -> None:
        made = builders.job(database, items=2)
        fail(database, made, 1)

        with pytest.raises(RequestError, match="no failed items with fetch_failed"):
            retry(database, made, "fetch_failed")
        assert job(database, retry(database, made, "fetch_failed", "image_unreadable")).total == 1

    def test_under_a_key_it_is_done_once(self, database: Database) -> None:
        made = builders.job(database, items=2)
        fail(database, made, 1)

        first, second = retry(database, made, key="k"), retry(database, made, key="k")

        assert first == second != retry(database, made)
        with pytest.raises(IdempotencyConflict):
            retry(database, made, "image_unreadable", key="k")

    def test_a_job_that_runs_is_not_retried(self, database: Database) -> None:
        made = builders.job(database, items=2)

        with pytest.raises(NotReady):
            retry(database, made)
