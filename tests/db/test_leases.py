"""The ends of a lease, and what a worker that comes too late can do: nothing."""

import pytest

from db.queue import jobs, leases, rescues, results, sessions
from db.queue.lease import Failure, Lease, RetryPolicy
from db.sql.database import Database
from db.vocabulary.errors import EngineError, IdefiqError, ImageUnreadable, StorageError
from db.vocabulary.states import JobState, Stage
from tests.db import builders

POLICY = RetryPolicy(max_attempts=3, first_wait_seconds=60.0)


def fail(database: Database, taken: list[Lease], error: IdefiqError) -> set[int]:
    with database.transaction() as transaction:
        return leases.fail(transaction, [Failure(lease, error) for lease in taken], POLICY)


def rescue(database: Database) -> int:
    with database.transaction() as transaction:
        return rescues.rescue(transaction)


def test_the_last_answer_finishes_the_job(database: Database) -> None:
    job_id, owner_id = builders.job(database, items=2), builders.owner(database)
    taken = builders.claim(database, builders.session(database))

    builders.complete(database, taken[:1])
    with database.snapshot() as transaction:
        before = jobs.get(transaction, owner_id, job_id)
    builders.complete(database, taken[1:])
    with database.snapshot() as transaction:
        after = jobs.get(transaction, owner_id, job_id)

    assert (before.state, after.state) == (JobState.RUNNING, JobState.SUCCEEDED)


def test_completing_twice_writes_once(database: Database) -> None:
    job_id = builders.job(database)
    taken = builders.claim(database, builders.session(database))

    first = builders.complete(database, taken, "the first")
    second = builders.complete(database, taken, "the second")

    assert (len(first), second) == (1, set())
    with database.snapshot() as transaction:
        item = results.get(transaction, builders.owner(database), job_id, 0)
    assert item.answer == {"text": "the first"}


def test_a_worker_that_slept_past_its_lease_writes_nothing(database: Database) -> None:
    job_id = builders.job(database)
    sleeper = builders.session(database, "sleeper")
    stale = builders.claim(database, sleeper)
    builders.kill(database, sleeper)

    rescued = rescue(database)
    fresh = builders.claim(database, builders.session(database, "other"))
    from_stale = builders.complete(database, stale, "stale")
    from_fresh = builders.complete(database, fresh, "fresh")

    assert (rescued, from_stale, len(from_fresh)) == (1, set(), 1)
    assert [lease.claim_number for lease in fresh] == [2]
    assert builders.counts(database, job_id) == {"succeeded": 1}


@pytest.mark.parametrize("end", ["release", "fail", "advance"])
def test_every_end_of_a_lost_lease_is_dropped(database: Database, end: str) -> None:
    builders.job(database)
    sleeper = builders.session(database, "sleeper")
    stale = builders.claim(database, sleeper)
    builders.kill(database, sleeper)
    rescue(database)
    builders.claim(database, builders.session(database, "other"))

    with database.transaction() as transaction:
        written = {
            "release": lambda: leases.release(transaction, stale),
            "fail": lambda: leases.fail(
                transaction, [Failure(stale[0], ImageUnreadable("no"))], POLICY
            ),
            "advance": lambda: leases.advance(transaction, [(stale[0], [builders.IMAGE])]),
        }[end]()

    assert written == set()


def test_a_released_item_is_charged_nothing_and_comes_back_at_once(database: Database) -> None:
    builders.job(database)
    session = builders.session(database)

    taken = builders.claim(database, session)
    with database.transaction() as transaction:
        leases.release(transaction, taken)
    [again] = builders.claim(database, session)

    assert (again.claim_number, again.attempts) == (2, 0)


def test_an_items_own_error_is_final_and_harms_no_neighbour(database: Database) -> None:
    job_id = builders.job(database, items=2)
    bad, good = builders.claim(database, builders.session(database))

    fail(database, [bad], ImageUnreadable("the bytes are no image"))
    builders.complete(database, [good])

    assert builders.counts(database, job_id) == {"failed": 1, "succeeded": 1}
    with database.snapshot() as transaction:
        item = results.get(transaction, builders.owner(database), job_id, 0)
        job = jobs.get(transaction, builders.owner(database), job_id)
    assert (item.error_code, item.error_message) == ("image_unreadable", "the bytes are no image")
    assert job.state is JobState.FINISHED_WITH_ERRORS


def test_a_retryable_error_waits_and_then_fails_for_good(database: Database) -> None:
    job_id = builders.job(database)
    session = builders.session(database)

    seen = []
    for _ in range(3):
        taken = builders.claim(database, session)
        fail(database, taken, EngineError("the device failed"))
        seen.append(
            (taken[0].claim_number, taken[0].attempts, len(builders.claim(database, session)))
        )
        builders.make_due(database)

    assert seen == [(1, 0, 0), (2, 1, 0), (3, 2, 0)]
    assert builders.counts(database, job_id) == {"failed": 1}


def test_an_unreachable_store_is_charged_to_no_item(database: Database) -> None:
    job_id = builders.job(database)
    session = builders.session(database)

    for _ in range(POLICY.max_attempts + 2):
        taken = builders.claim(database, session)
        fail(database, taken, StorageError("the store is away"))
        builders.make_due(database)

    assert builders.counts(database, job_id) == {"queued": 1}


def test_a_rescue_leaves_the_living_and_the_finished_alone(database: Database) -> None:
    job_id = builders.job(database, items=3)
    dead, living = builders.session(database, "dead"), builders.session(database, "living")
    finished, lost = builders.claim(database, dead, limit=2)
    builders.claim(database, living)
    builders.complete(database, [finished])
    builders.kill(database, dead)

    assert rescue(database) == 1
    assert rescue(database) == 0
    assert builders.counts(database, job_id) == {"queued": 1, "running": 1, "succeeded": 1}
    [again] = builders.claim(database, living)
    assert (again.item_id, again.claim_number, again.attempts) == (lost.item_id, 2, 0)


class TestTheDeviceHung:
    """What the watchdog writes before it ends a worker."""

    def blame(self, database: Database, running: list[Lease]) -> set[int]:
        with database.transaction() as transaction:
            return leases.mark_suspects(transaction, running, alone=len(running) == 1)

    def test_items_that_were_together_on_it_are_suspects_and_charged_nothing(
        self, database: Database
    ) -> None:
        job_id = builders.job(database, items=2)
        session = builders.session(database)

        self.blame(database, builders.claim(database, session))

        again = builders.claim(database, session)
        assert [(lease.is_suspect, lease.hang_count, lease.attempts) for lease in again] == [
            (True, 0, 0)
        ] * 2
        assert builders.counts(database, job_id) == {"running": 2}

    def test_an_item_alone_on_it_is_given_up_the_second_time(self, database: Database) -> None:
        job_id = builders.job(database)
        session = builders.session(database)
        for _ in range(2):
            self.blame(database, builders.claim(database, session))

        assert builders.counts(database, job_id) == {"failed": 1}
        with database.snapshot() as transaction:
            item = results.get(transaction, builders.owner(database), job_id, 0)
        assert item.error_code == "poison"

    def test_a_word_that_comes_too_late_changes_nothing(self, database: Database) -> None:
        job_id = builders.job(database)
        session = builders.session(database)
        taken = builders.claim(database, session)
        builders.complete(database, taken)

        assert self.blame(database, taken) == set()
        assert builders.counts(database, job_id) == {"succeeded": 1}


def test_however_often_workers_die_without_evidence_an_item_is_never_given_up(
    database: Database,
) -> None:
    job_id = builders.job(database)

    for _ in range(30):
        session = builders.session(database)
        assert len(builders.claim(database, session)) == 1
        builders.kill(database, session)
        rescue(database)
        builders.make_due(database)

    assert builders.counts(database, job_id) == {"queued": 1}


def test_an_item_that_is_rescued_again_and_again_waits_longer_each_time(
    database: Database,
) -> None:
    builders.job(database)
    claimed = 0

    for _ in range(30):
        session = builders.session(database)
        claimed += len(builders.claim(database, session))
        builders.kill(database, session)
        rescue(database)

    assert 3 <= claimed <= 6


class TestSessions:
    def test_a_heartbeat_keeps_a_session_alive_and_revives_no_dead_one(
        self, database: Database
    ) -> None:
        session = builders.session(database)

        with database.transaction() as transaction:
            while_alive = sessions.heartbeat(transaction, session, 60.0)
        builders.kill(database, session)
        with database.transaction() as transaction:
            when_dead = sessions.heartbeat(transaction, session, 60.0)

        assert (while_alive, when_dead) == (True, False)

    def test_a_worker_that_starts_again_frees_what_its_dead_self_held(
        self, database: Database
    ) -> None:
        job_id = builders.job(database, items=2)
        builders.claim(database, builders.session(database, "engine-1"))

        reborn = builders.session(database, "engine-1")

        assert builders.counts(database, job_id) == {"queued": 2}
        assert len(builders.claim(database, reborn)) == 2

    def test_a_lease_expires_by_the_databases_clock(self, database: Database) -> None:
        builders.job(database)
        session = builders.session(database, lease_seconds=-0.001)

        assert builders.claim(database, session) == []

    def test_only_living_sessions_of_the_stage_are_counted(self, database: Database) -> None:
        builders.session(database, "a")
        builders.kill(database, builders.session(database, "b"))

        with database.snapshot() as transaction:
            assert sessions.alive(transaction) == {(Stage.GENERATE, builders.MODEL): 1}


class TestResults:
    def test_pages_in_order_of_finishing_miss_nothing_and_repeat_nothing(
        self, database: Database
    ) -> None:
        job_id = builders.job(database, items=7)
        taken = builders.claim(database, builders.session(database))

        seen: list[int] = []
        number = 0
        for some in ([taken[5], taken[1]], [taken[0]], taken[2:5], [taken[6]]):
            builders.complete(database, list(some))
            with database.snapshot() as transaction:
                page = results.finished_after(transaction, job_id, number=number, limit=100)
            seen += [item.ordinal for item in page]
            number = page[-1].result_number or 0

        assert seen == [5, 1, 0, 2, 3, 4, 6]

    def test_a_lost_lease_leaves_a_gap_and_no_number_is_given_twice(
        self, database: Database
    ) -> None:
        job_id = builders.job(database, items=3)
        sleeper = builders.session(database, "sleeper")
        stale = builders.claim(database, sleeper)
        builders.complete(database, stale[:1])
        builders.kill(database, sleeper)
        rescue(database)

        fresh = builders.claim(database, builders.session(database, "other"))
        builders.complete(database, [stale[1], fresh[1]])
        builders.complete(database, [fresh[0]])

        with database.snapshot() as transaction:
            page = results.finished_after(transaction, job_id, number=0, limit=100)
        assert [item.ordinal for item in page] == [0, 2, 1]
        assert [item.result_number for item in page] == [1, 3, 4]
