"""Submitting, importing, looking at, cancelling and pausing jobs."""

import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import update

from db import owners, tables
from db.queue import imports, job_lists, jobs, submissions
from db.queue.job_lists import JobFilter
from db.queue.submissions import NewItem, NewJob
from db.sql.database import Database
from db.vocabulary.errors import IdempotencyConflict, NotFound, RequestError
from db.vocabulary.states import JobState
from tests.db import builders


def test_a_job_starts_queued_with_all_its_items(database: Database) -> None:
    job_id = builders.job(database, items=3)

    with database.snapshot() as transaction:
        job = jobs.get(transaction, builders.owner(database), job_id)
    assert (job.state, job.total, job.queued) == (JobState.QUEUED, 3, 3)
    assert builders.counts(database, job_id) == {"queued": 3}


def test_a_job_without_items_is_finished_at_once(database: Database) -> None:
    job_id = builders.job(database, items=0)

    with database.snapshot() as transaction:
        job = jobs.get(transaction, builders.owner(database), job_id)
    assert job.state is JobState.SUCCEEDED


def test_a_job_of_another_owner_is_not_found(database: Database) -> None:
    job_id = builders.job(database)

    with database.snapshot() as transaction, pytest.raises(NotFound):
        jobs.get(transaction, builders.owner(database, "eve") + 1000, job_id)


def test_a_thousand_items_arrive_whole_on_both_databases(database: Database) -> None:
    job_id = builders.job(database, items=1_000)

    taken = builders.claim(database, builders.session(database), limit=1_000)

    assert [lease.request["prompt"] for lease in taken] == [f"number {n}" for n in range(1_000)]
    assert builders.counts(database, job_id) == {"running": 1_000}


def test_pages_of_jobs_are_newest_first_and_never_overlap(database: Database) -> None:
    owner_id = builders.owner(database)
    made = [builders.job(database, owner_id=owner_id) for _ in range(5)]
    builders.job(database, owner_id=builders.owner(database, "eve"))

    pages, before = [], None
    with database.snapshot() as transaction:
        while page := job_lists.page(transaction, owner_id, before=before, limit=2):
            pages += [job.id for job in page]
            before = page[-1].id

    assert pages == sorted(made, reverse=True)


EARLIER, LATER = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
ENDED = {"finished_at": LATER, "queued": 0}
STOPPED = ENDED | {"cancelled_at": LATER, "cancelled": 1}


@pytest.mark.parametrize(
    ("state", "facts"),
    [
        ("importing", {"sealed_at": None}),
        ("queued", {"priority": 1}),
        ("running", {"started_at": LATER}),
        ("paused", {"started_at": LATER, "paused_at": LATER}),
        ("cancelling", {"cancelled_at": LATER, "paused_at": LATER}),
        ("succeeded", ENDED | {"succeeded": 1}),
        ("finished_with_errors", ENDED | {"failed": 1}),
        ("cancelled", STOPPED),
        ("cancelled", STOPPED | {"cancelled_at": EARLIER, "expires_at": LATER}),
        ("expired", STOPPED | {"expires_at": EARLIER}),
        ("expired", STOPPED | {"expires_at": LATER}),
    ],
)
def test_jobs_are_found_by_the_state_that_they_show(
    state: str, facts: dict[str, Any], database: Database
) -> None:
    owner_id = builders.owner(database)
    job_id = builders.job(database)
    with database.transaction() as transaction:
        transaction.execute(update(tables.jobs).where(tables.jobs.c.id == job_id).values(**facts))

    with database.snapshot() as transaction:
        found = {
            each.value: [
                (job.id, job.state.value)
                for job in job_lists.page(
                    transaction, owner_id, before=None, limit=9, only=JobFilter(states=[each])
                )
            ]
            for each in JobState
        }

    assert found == {each.value: [(job_id, state)] * (each == state) for each in JobState}


class TestIdempotencyKeys:
    def job(self, owner_id: int, digest: str) -> NewJob:
        return NewJob(owner_id, "echo", {}, idempotency_key="k", body_digest=digest)

    def test_the_same_key_with_the_same_body_finds_the_first_job(self, database: Database) -> None:
        new = self.job(builders.owner(database), "a" * 64)

        with database.transaction() as transaction:
            first = builders.submit(transaction, new, [])
        with database.transaction() as transaction:
            again = submissions.submitted_before(transaction, new)

        assert again == first

    def test_the_same_key_with_another_body_is_refused(self, database: Database) -> None:
        owner_id = builders.owner(database)
        with database.transaction() as transaction:
            builders.submit(transaction, self.job(owner_id, "a" * 64), [])

        with database.transaction() as transaction, pytest.raises(IdempotencyConflict):
            submissions.submitted_before(transaction, self.job(owner_id, "b" * 64))

    def test_two_owners_may_use_the_same_key(self, database: Database) -> None:
        ids = []
        for name in ("ada", "eve"):
            with database.transaction() as transaction:
                new = self.job(owners.get_or_create(transaction, name).id, "a" * 64)
                assert submissions.submitted_before(transaction, new) is None
                ids.append(builders.submit(transaction, new, []))

        assert len(set(ids)) == 2


class TestImports:
    def spooled(self, database: Database, lines: int) -> jobs.Job:
        owner_id = builders.owner(database)
        new = NewJob(owner_id, "echo", {}, spool_key="1/spool/x.jsonl", spool_lines=lines)
        with database.transaction() as transaction:
            return jobs.get(transaction, owner_id, submissions.create(transaction, new))

    def page(self, count: int) -> list[NewItem]:
        return [NewItem({"images": [builders.IMAGE]}) for _ in range(count)]

    def test_nothing_is_claimed_before_the_last_page_is_in(self, database: Database) -> None:
        job = self.spooled(database, lines=3)
        builders.checked_image(database, job.owner_id)
        session = builders.session(database)

        with database.transaction() as transaction:
            imports.import_page(transaction, job, 0, self.page(2), 1)
            submissions.seal(transaction, job.id)
        early = builders.claim(database, session)
        with database.transaction() as transaction:
            imports.import_page(transaction, job, 2, self.page(1), 1)
            submissions.seal(transaction, job.id)

        assert early == []
        assert len(builders.claim(database, session)) == 3

    def test_a_page_imported_twice_is_stored_once(self, database: Database) -> None:
        job = self.spooled(database, lines=300)

        wrote = []
        for _ in range(2):
            with database.transaction() as transaction:
                wrote.append(imports.import_page(transaction, job, 0, self.page(300), 1))

        assert wrote == [True, False]
        assert builders.counts(database, job.id) == {"queued": 300}

    def test_two_importers_at_once_write_each_page_once(self, database: Database) -> None:
        job = self.spooled(database, lines=40)

        def run() -> None:
            for offset in range(0, 40, 10):
                with database.transaction() as transaction:
                    imports.import_page(transaction, job, offset, self.page(10), 1)

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert builders.counts(database, job.id) == {"queued": 40}

    def test_a_cancelled_job_imports_no_more_and_can_be_sealed(self, database: Database) -> None:
        job = self.spooled(database, lines=20)

        with database.transaction() as transaction:
            imports.import_page(transaction, job, 0, self.page(10), 1)
            jobs.cancel(transaction, job.owner_id, job.id)
        with database.transaction() as transaction:
            assert not imports.import_page(transaction, job, 10, self.page(10), 1)
            submissions.seal(transaction, job.id)
            jobs.settle_cancelled(transaction, job.id, 100)

        assert builders.counts(database, job.id) == {"cancelled": 10}


class TestCancelling:
    def test_queued_items_are_cancelled_in_pages_and_the_job_ends(self, database: Database) -> None:
        job_id, owner_id = builders.job(database, items=5), builders.owner(database)

        with database.transaction() as transaction:
            assert jobs.cancel(transaction, owner_id, job_id).state is JobState.CANCELLING
        pages = []
        for _ in range(3):
            with database.transaction() as transaction:
                pages.append(jobs.settle_cancelled(transaction, job_id, 2))

        assert pages == [2, 2, 1]
        assert builders.counts(database, job_id) == {"cancelled": 5}
        with database.snapshot() as transaction:
            assert jobs.get(transaction, owner_id, job_id).state is JobState.CANCELLED

    def test_existing_answers_stay(self, database: Database) -> None:
        job_id, owner_id = builders.job(database, items=3), builders.owner(database)
        builders.complete(database, builders.claim(database, builders.session(database), limit=1))

        with database.transaction() as transaction:
            jobs.cancel(transaction, owner_id, job_id)
            jobs.settle_cancelled(transaction, job_id, 100)

        assert builders.counts(database, job_id) == {"succeeded": 1, "cancelled": 2}

    def test_what_runs_finishes_and_nothing_new_starts(self, database: Database) -> None:
        job_id, owner_id = builders.job(database, items=2), builders.owner(database)
        session = builders.session(database)
        taken = builders.claim(database, session, limit=1)

        with database.transaction() as transaction:
            jobs.cancel(transaction, owner_id, job_id)

        assert builders.claim(database, session) == []
        assert len(builders.complete(database, taken)) == 1

    def test_a_finished_job_stays_as_it_is(self, database: Database) -> None:
        job_id, owner_id = builders.job(database), builders.owner(database)
        builders.complete(database, builders.claim(database, builders.session(database)))

        with database.transaction() as transaction:
            assert jobs.cancel(transaction, owner_id, job_id).state is JobState.SUCCEEDED


class TestPausing:
    def test_a_paused_job_is_not_claimed_until_it_is_resumed(self, database: Database) -> None:
        job_id, owner_id = builders.job(database), builders.owner(database)
        session = builders.session(database)

        with database.transaction() as transaction:
            paused = jobs.pause(transaction, owner_id, job_id, paused=True)
        while_paused = builders.claim(database, session)
        with database.transaction() as transaction:
            jobs.pause(transaction, owner_id, job_id, paused=False)

        assert (paused.state, while_paused) == (JobState.PAUSED, [])
        assert len(builders.claim(database, session)) == 1

    def test_a_finished_job_cannot_be_paused(self, database: Database) -> None:
        job_id, owner_id = builders.job(database, items=0), builders.owner(database)

        with database.transaction() as transaction, pytest.raises(RequestError, match="succeeded"):
            jobs.pause(transaction, owner_id, job_id, paused=True)
