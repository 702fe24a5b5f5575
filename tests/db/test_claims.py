"""Which items a worker takes next."""

import threading
from typing import Any

import pytest

from db import owners
from db.queue import claims, jobs, leases, rescues
from db.queue.lease import Failure, Lease, RetryPolicy
from db.sql.database import Database
from db.vocabulary.errors import EngineError, ItemRefused
from db.vocabulary.limits import OwnerLimits
from db.vocabulary.states import JobState, SourceApi, Stage
from tests.db import builders


def test_a_claim_takes_the_oldest_items_first_and_numbers_the_attempt(database: Database) -> None:
    builders.job(database, items=5)

    taken = builders.claim(database, builders.session(database), limit=2)

    assert [(lease.request["prompt"], lease.claim_number) for lease in taken] == [
        ("number 0", 1),
        ("number 1", 1),
    ]


def test_a_claim_hands_over_defaults_under_the_items_own_fields(database: Database) -> None:
    defaults = {"kind": "caption", "prompt": "unused", "options": {"max_new_tokens": 7}}
    builders.job(database, defaults=defaults)

    [lease] = builders.claim(database, builders.session(database))

    assert lease.request == {
        "kind": "caption",
        "images": [builders.IMAGE],
        "prompt": "number 0",
        "options": {"max_new_tokens": 7},
    }


def test_a_claim_fills_up_from_the_next_job(database: Database) -> None:
    first, second = (builders.job(database, items=2) for _ in range(2))

    taken = builders.claim(database, builders.session(database), limit=3)

    assert [lease.job_id for lease in taken] == [first, first, second]


def test_a_claim_leaves_other_models_and_other_stages_alone(database: Database) -> None:
    builders.job(database, model="another")

    assert builders.claim(database, builders.session(database)) == []


def test_an_expired_session_claims_nothing(database: Database) -> None:
    builders.job(database)
    session = builders.session(database)
    builders.kill(database, session)

    assert builders.claim(database, session) == []


def test_many_claimers_never_share_an_item(database: Database) -> None:
    job_id = builders.job(database, items=120)
    taken: list[int] = []

    def run(worker: str) -> None:
        session = builders.session(database, worker)
        while leases_ := builders.claim(database, session, limit=7):
            builders.complete(database, leases_)
            taken.extend(lease.item_id for lease in leases_)

    threads = [threading.Thread(target=run, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(taken) == len(set(taken)) == 120
    assert builders.counts(database, job_id) == {"succeeded": 120}


def test_a_claim_takes_nothing_from_an_expired_job(database: Database) -> None:
    job_id, owner_id = (
        builders.job(database, items=3, expires_seconds=3600),
        builders.owner(database),
    )
    session = builders.session(database)
    builders.complete(database, builders.claim(database, session, limit=1))

    forward(database, 3600)
    taken = builders.claim(database, session)
    with database.transaction() as transaction:
        expired = jobs.expire(transaction)
        jobs.settle_cancelled(transaction, job_id, 100)
        job = jobs.get(transaction, owner_id, job_id)

    assert (taken, expired, job.state) == ([], [job_id], JobState.EXPIRED)
    assert builders.counts(database, job_id) == {"succeeded": 1, "cancelled": 2}


def forward(database: Database, seconds: int) -> None:
    """Let time pass for the jobs: they are older by that much."""
    builders.age(database, seconds, "jobs.created_at", "jobs.rank_at", "jobs.expires_at")


class TestPriority:
    def order(self, database: Database, limit: int = 10) -> list[str]:
        taken = builders.claim(database, builders.session(database), limit=limit)
        return [lease.job_id for lease in taken]

    def test_a_job_of_higher_priority_is_claimed_before_an_older_one(
        self, database: Database
    ) -> None:
        usual, urgent = builders.job(database), builders.job(database, priority=1)

        assert self.order(database) == [urgent, usual]

    def test_a_job_that_waits_overtakes_what_comes_later_than_its_head_start(
        self, database: Database
    ) -> None:
        unimportant = builders.job(database, priority=-2)
        forward(database, 2 * int(jobs.PRIORITY_SECONDS))
        later = builders.job(database)

        assert self.order(database) == [unimportant, later]

    def test_a_change_holds_at_the_next_claim(self, database: Database) -> None:
        first, second = builders.job(database, items=2), builders.job(database)
        session = builders.session(database)
        builders.claim(database, session, limit=1)

        owner_id = builders.owner(database)
        with database.transaction() as transaction:
            jobs.prioritize(transaction, owner_id, second, 3)

        taken = builders.claim(database, session)
        assert [lease.job_id for lease in taken] == [second, first]

    def test_a_conversation_comes_before_every_job_of_its_owner(self, database: Database) -> None:
        job = builders.job(database, priority=10)
        chat = builders.job(database, source_api=SourceApi.CHAT)

        assert self.order(database) == [chat, job]


class TestFairShare:
    """A worker that claims, answers and claims again, four items at a time."""

    def turns(self, database: Database, count: int) -> list[list[str]]:
        """Whose items each claim takes."""
        session, taken = builders.session(database), []
        for _ in range(count):
            batch = builders.claim(database, session, limit=4)
            builders.complete(database, batch)
            taken.append([names[lease.owner_id] for lease in batch])
        return taken

    @pytest.fixture(autouse=True)
    def people(self, database: Database) -> None:
        names.clear()
        names.update({builders.owner(database, name): name for name in ("ada", "ben", "eve")})

    def test_a_large_job_delays_a_small_one_of_another_owner_by_a_batch_only(
        self, database: Database
    ) -> None:
        builders.job(database, items=100, owner_id=builders.owner(database, "ada"))
        before = self.turns(database, 3)
        builders.job(database, items=6, owner_id=builders.owner(database, "ben"))
        after = self.turns(database, 5)

        assert before == [["ada"] * 4] * 3
        assert after == [["ben"] * 4, ["ada"] * 4, ["ben"] * 2 + ["ada"] * 2, *[["ada"] * 4] * 2]

    def test_many_small_jobs_of_one_owner_are_no_larger_share(self, database: Database) -> None:
        for _ in range(12):
            builders.job(database, items=1, owner_id=builders.owner(database, "ada"))
        builders.job(database, items=12, owner_id=builders.owner(database, "ben"))

        assert self.turns(database, 4) == [["ada"] * 4, ["ben"] * 4] * 2

    def test_what_an_owner_has_running_counts_against_it_by_its_weight(
        self, database: Database
    ) -> None:
        for name in ("ada", "ben"):
            builders.job(database, items=100, owner_id=builders.owner(database, name))
        with database.transaction() as transaction:
            owners.limit(transaction, "ben", OwnerLimits(weight=3.0))
        session, running = builders.session(database), dict.fromkeys(("ada", "ben"), 0)

        for _ in range(8):  # nothing is answered: eight workers with a batch each
            for lease in builders.claim(database, session, limit=4):
                running[names[lease.owner_id]] += 1

        assert running == {"ada": 8, "ben": 24}

    def test_conversations_of_one_owner_do_not_keep_those_of_another_waiting(
        self, database: Database
    ) -> None:
        for _ in range(6):
            builders.job(
                database, source_api=SourceApi.CHAT, owner_id=builders.owner(database, "ada")
            )
        builders.job(database, source_api=SourceApi.CHAT, owner_id=builders.owner(database, "ben"))

        first, second = self.turns(database, 2)

        assert first == ["ada"] * 4
        assert second == ["ben"] + ["ada"] * 2

    def test_conversations_go_first_within_the_share_of_their_owner_only(
        self, database: Database
    ) -> None:
        for _ in range(6):
            builders.job(
                database, source_api=SourceApi.CHAT, owner_id=builders.owner(database, "ada")
            )
        builders.job(database, items=4, owner_id=builders.owner(database, "ben"))

        first, second = self.turns(database, 2)

        assert first == ["ada"] * 4
        assert second == ["ben"] * 4

    def test_a_worker_may_leave_out_owners_of_whom_it_has_enough(self, database: Database) -> None:
        for name in ("ada", "ben"):
            builders.job(database, owner_id=builders.owner(database, name))
        chat = builders.job(
            database, source_api=SourceApi.CHAT, owner_id=builders.owner(database, "ada")
        )
        asked: dict[str, Any] = {"stage": Stage.GENERATE, "model": builders.MODEL}
        session, ada = builders.session(database), builders.owner(database, "ada")

        with database.transaction() as transaction:
            taken = claims.claim(transaction, session=session, limit=9, without=[ada], **asked)
            left = [
                claims.is_due(transaction, session=session, without=some, **asked)
                for some in ([], [ada])
            ]

        # A caller waits for a conversation, and there are never many of them.
        assert {lease.owner_id for lease in taken} == {ada, builders.owner(database, "ben")}
        assert [lease.job_id for lease in taken if lease.owner_id == ada] == [chat]
        assert left == [True, False]


def test_an_item_is_due_for_its_model_until_it_is_paused_or_claimed(database: Database) -> None:
    def is_due(model: str | None = builders.MODEL) -> bool:
        with database.snapshot() as transaction:
            return claims.is_due(transaction, session=session, stage=Stage.GENERATE, model=model)

    job_id, owner_id = builders.job(database, items=2), builders.owner(database)
    session = builders.session(database)
    told = [is_due(), is_due("another"), is_due(None)]
    with database.transaction() as transaction:
        jobs.pause(transaction, owner_id, job_id, paused=True)
    told.append(is_due())
    with database.transaction() as transaction:
        jobs.pause(transaction, owner_id, job_id, paused=False)
    builders.claim(database, session)
    told.append(is_due())

    assert told == [True, False, True, False, False]


#: Names of owners by id.
names: dict[int, str] = {}


def test_claims_and_answers_across_jobs_never_wait_for_each_other_in_a_circle(
    database: Database,
) -> None:
    """Several jobs of several owners, so that each claim and each write locks a few.

    Claims are larger than what is left of a job, so that each finds items that others take.
    """
    people = [builders.owner(database, f"owner{n}") for n in range(3)]
    made = [builders.job(database, items=30, owner_id=people[n % 3]) for n in range(6)]
    failed: list[BaseException] = []

    def failures(taken: list[Lease]) -> list[Failure]:
        errors = EngineError("for now"), ItemRefused("for good")
        return [Failure(lease, errors[lease.item_id % 2]) for lease in taken]

    def run(worker: str) -> None:
        session = builders.session(database, worker)
        try:
            while taken := builders.claim(database, session, limit=13):
                given_back = taken[:1] if len(taken) > 1 else []
                with database.transaction() as transaction:
                    leases.release(transaction, given_back)
                taken = taken[len(given_back) :]
                with database.transaction() as transaction:
                    leases.fail(transaction, failures(taken[:4]), RetryPolicy(3, 0.0))
                reserved = builders.reserve(database, taken[4:]) if taken[4:] else {}
                builders.complete(database, taken[4:9], reserved=reserved)
                builders.complete(database, taken[9:])  # those without are drawn
                with database.transaction() as transaction:
                    rescues.rescue(transaction)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failed == []
    assert [builders.counts(database, job_id).get("running") for job_id in made] == [None] * 6
