"""A job is answered by one variant of its model: a checkpoint, an adapter, a template, options."""

from typing import Any

import pytest
from sqlalchemy import text

from db.queue import jobs, leases, variants
from db.queue.jobs import Job
from db.sql.database import Database
from db.vocabulary.states import ModelChanged
from db.webhooks import endpoints, outbox
from tests.db import builders

PAUSES: dict[str, Any] = {"model_changed": ModelChanged.PAUSE}


def engine(database: Database, variant: str | None) -> str:
    """A session of an engine of this variant."""
    return builders.session(database, f"engine of {variant}", variant=variant)


def answer(database: Database, session: str, most: int = 1) -> int:
    """How many items the engine answers of those that it may claim."""
    return len(builders.complete(database, builders.claim(database, session, most)))


def pause_changed(database: Database) -> list[str]:
    with database.transaction() as transaction:
        return variants.pause_changed(transaction, grace_seconds=0)


def get(database: Database, job_id: str) -> Job:
    with database.snapshot() as transaction:
        return jobs.get(transaction, builders.owner(database), job_id)


def resume(database: Database, job_id: str) -> None:
    owner_id = builders.owner(database)
    with database.transaction() as transaction:
        jobs.pause(transaction, owner_id, job_id, paused=False)


def test_a_job_is_bound_to_the_variant_that_answered_its_first_item(database: Database) -> None:
    job_id = builders.job(database, 3, **PAUSES)
    old, new = engine(database, "old"), engine(database, "new")

    assert [answer(database, each) for each in (old, new, old)] == [1, 0, 1]
    assert get(database, job_id).variant == "old"


def test_a_job_without_an_answer_takes_another_variant_when_its_own_is_gone(
    database: Database,
) -> None:
    job_id = builders.job(database, 3, **PAUSES)
    old, new = engine(database, "old"), engine(database, "new")

    taken = builders.claim(database, old)
    with database.transaction() as transaction:
        leases.release(transaction, taken)
    assert answer(database, new) == 0
    builders.kill(database, old)

    assert answer(database, new) == 1
    assert get(database, job_id).variant == "new"


@pytest.mark.parametrize("variant", [None, "old"])
def test_a_job_that_may_continue_is_answered_by_every_engine(
    database: Database, variant: str | None
) -> None:
    builders.job(database, 3, model_changed=ModelChanged.CONTINUE)

    assert [answer(database, engine(database, each)) for each in (variant, "new")] == [1, 1]


def test_an_engine_of_an_older_release_claims_everything_and_binds_nothing(
    database: Database,
) -> None:
    job_id = builders.job(database, 3, **PAUSES)

    assert answer(database, engine(database, None)) == 1
    assert get(database, job_id).variant is None
    assert [answer(database, engine(database, each)) for each in ("new", None)] == [1, 1]


class TestWhenTheVariantIsGone:
    @pytest.fixture
    def job_id(self, database: Database) -> str:
        """A job with one answer of a variant that is not served any more."""
        job_id = builders.job(database, 3, **PAUSES)
        old = engine(database, "old")
        answer(database, old)
        builders.kill(database, old)
        return job_id

    def test_the_job_waits_while_no_other_variant_is_served(
        self, database: Database, job_id: str
    ) -> None:
        assert pause_changed(database) == []
        assert get(database, job_id).state == "running"

    def test_the_job_goes_on_while_one_engine_of_the_variant_is_left(
        self, database: Database, job_id: str
    ) -> None:
        engine(database, "new")
        builders.session(database, "another engine", variant="old")

        assert pause_changed(database) == []

    def test_the_job_gives_the_engine_a_moment_to_come_back(
        self, database: Database, job_id: str
    ) -> None:
        engine(database, "new")

        with database.transaction() as transaction:
            assert variants.pause_changed(transaction, grace_seconds=60) == []

    def test_the_job_pauses_once_another_variant_is_served(
        self, database: Database, job_id: str
    ) -> None:
        engine(database, "new")

        assert [pause_changed(database), pause_changed(database)] == [[job_id], []]
        paused = get(database, job_id)
        assert (paused.state, paused.pause_reason) == ("paused", "model_changed")

    def test_a_resumed_job_is_bound_to_the_variant_that_claims_next(
        self, database: Database, job_id: str
    ) -> None:
        new = engine(database, "new")
        pause_changed(database)

        resume(database, job_id)

        assert answer(database, new, 1) == 1
        assert get(database, job_id).variant == "new"

    def test_every_pause_is_told_by_webhook(self, database: Database, job_id: str) -> None:
        owner_id = builders.owner(database)
        with database.transaction() as transaction:
            webhook = endpoints.add(
                transaction, owner_id, "https://example.com/told", ["job.paused"]
            )
        for variant in ("new", "newer"):
            session = engine(database, variant)
            assert pause_changed(database) == [job_id]
            # Ids of deliveries have seconds: the last pause was yesterday.
            with database.transaction() as transaction:
                transaction.execute(text("UPDATE deliveries SET id = id || '-'"))
            resume(database, job_id)
            answer(database, session)
            builders.kill(database, session)

        with database.snapshot() as transaction:
            told = outbox.log(transaction, owner_id, webhook.id, before=None, limit=9)
        assert [(one.event, one.subject) for one in told] == [("job.paused", job_id)] * 2

    def test_a_job_without_waiting_items_ends_as_it_would_have(
        self, database: Database, job_id: str
    ) -> None:
        engine(database, "new")
        taken = builders.claim(database, engine(database, "old"))
        builders.kill(database, taken[0].session_id)

        assert pause_changed(database) == []
        builders.complete(database, taken)
        assert get(database, job_id).state == "succeeded"
