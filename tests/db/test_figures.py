"""Figures of the queue: what they count, on both databases."""

from sqlalchemy import text

from db.queue import figures, jobs, leases
from db.queue.figures import QueueFigures
from db.queue.lease import Failure, RetryPolicy
from db.sql.database import Database
from db.vocabulary.errors import FetchFailed
from db.vocabulary.states import Stage
from db.webhooks import endpoints
from tests.db import builders


def read(database: Database) -> QueueFigures:
    with database.snapshot() as transaction:
        return figures.queue_figures(transaction)


def test_an_empty_queue_has_figures_of_nothing(database: Database) -> None:
    assert read(database) == QueueFigures({}, {}, {}, {}, {}, (0, 0.0))


def test_items_are_counted_by_state_model_and_kind(database: Database) -> None:
    builders.job(database, 3, defaults={"kind": "caption"})
    builders.job(database, 2, model="other", defaults={"kind": "vqa"})
    paused = builders.job(database, 4, defaults={"kind": "caption"})
    owner = builders.owner(database)
    with database.transaction() as transaction:
        jobs.pause(transaction, owner, paused, paused=True)
    builders.claim(database, builders.session(database), limit=1)

    counted = {key: count for key, count in read(database).items.items() if count}

    assert counted == {
        ("queued", "echo", "caption"): 2,
        ("running", "echo", "caption"): 1,
        ("queued", "other", "vqa"): 2,
        ("paused", "echo", "caption"): 4,
    }


def test_jobs_are_counted_by_state_until_they_have_finished(database: Database) -> None:
    builders.job(database)
    builders.job(database)
    taken = builders.claim(database, builders.session(database), limit=1)
    assert read(database).jobs == {"queued": 1, "running": 1}

    builders.complete(database, taken)

    assert read(database).jobs == {"queued": 1}


def test_the_oldest_due_item_is_as_old_as_it_has_waited_for_a_worker(database: Database) -> None:
    builders.job(database, 2)
    builders.age(database, 90, "items.due_at")
    builders.job(database)

    assert read(database).oldest_due["generate", "echo"] >= 90.0


def test_an_item_that_waits_for_its_retry_is_not_due(database: Database) -> None:
    builders.job(database)
    taken = builders.claim(database, builders.session(database))
    with database.transaction() as transaction:
        failed = [Failure(lease, FetchFailed("no answer")) for lease in taken]
        leases.fail(transaction, failed, RetryPolicy(5, 300.0))

    assert read(database).oldest_due == {("generate", "echo"): 0.0}


def test_items_of_a_paused_job_are_not_due(database: Database) -> None:
    paused = builders.job(database)
    builders.age(database, 90, "items.due_at")
    owner = builders.owner(database)
    with database.transaction() as transaction:
        jobs.pause(transaction, owner, paused, paused=True)

    assert read(database).oldest_due == {}


def test_live_workers_are_counted_by_stage_and_model(database: Database) -> None:
    builders.session(database, "a")
    builders.session(database, "b")
    builders.kill(database, builders.session(database, "c"))

    assert read(database).workers == {(Stage.GENERATE, "echo"): 2}


def test_a_served_model_without_work_has_figures_of_0(database: Database) -> None:
    builders.session(database)

    found = read(database)

    assert found.items == {(state, "echo", ""): 0 for state in ("queued", "running", "paused")}
    assert found.oldest_due == {("generate", "echo"): 0.0}


def test_only_the_owners_with_the_most_unfinished_items_are_named(database: Database) -> None:
    for number in range(figures.TOP_OWNERS + 2):
        owner = builders.owner(database, f"owner-{number}")
        builders.job(database, number + 1, owner_id=owner)

    named = read(database).top_owners

    assert len(named) == figures.TOP_OWNERS
    assert (named["owner-11"], "owner-0" in named) == (12, False)


def test_deliveries_that_wait_are_counted_with_the_age_of_the_oldest(database: Database) -> None:
    owner = builders.owner(database)
    with database.transaction() as transaction:
        endpoints.add(transaction, owner, "https://example.com/hook", ["job.succeeded"])
    builders.job(database)
    builders.complete(database, builders.claim(database, builders.session(database)))
    builders.age(database, 600, "deliveries.due_at")

    waiting, age = read(database).deliveries

    assert waiting == 1
    assert age >= 600.0


def test_stored_bytes_are_those_of_images_and_files(database: Database) -> None:
    builders.checked_image(database, builders.owner(database))
    with database.transaction() as transaction:
        transaction.execute(text("UPDATE blobs SET size_bytes = 10"))

    with database.snapshot() as transaction:
        found = figures.storage_figures(transaction)

    assert (found.reviews, found.stored_bytes) == (0, 10)
    assert found.database_bytes > 10_000
