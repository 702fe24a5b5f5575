"""Result numbers: reserved by those who write many results, and never missed by those who read."""

from collections.abc import Iterator

import pytest

from db.queue import jobs, numbers, rescues, results
from db.queue.lease import Lease
from db.sql.database import Database
from tests.db import builders


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    """Postgres alone: SQLite has one writer, and reserves nothing."""
    made = Database(postgres_url)
    yield made
    made.dispose()


def read(database: Database, job_id: str, after: int = 0) -> list[int]:
    """Ordinals on a page of results."""
    with database.snapshot() as transaction:
        page = results.finished_after(transaction, job_id, number=after, limit=100)
        return [item.ordinal for item in page]


def last_number(database: Database, job_id: str) -> int:
    with database.snapshot() as transaction:
        return jobs.get(transaction, builders.owner(database), job_id).results


def two_workers(database: Database, job_id: str) -> tuple[list[Lease], list[Lease]]:
    """What two workers have claimed of a job of four items."""
    return (
        builders.claim(database, builders.session(database, "w1"), 2),
        builders.claim(database, builders.session(database, "w2"), 2),
    )


def test_results_stay_unread_while_smaller_numbers_are_reserved(database: Database) -> None:
    job_id = builders.job(database, 4)
    early, late = two_workers(database, job_id)

    reserved = builders.reserve(database, early)
    builders.complete(database, late)

    assert read(database, job_id) == []
    assert last_number(database, job_id) == 0

    builders.complete(database, early, reserved=reserved)

    assert read(database, job_id) == [0, 1, 2, 3]
    assert last_number(database, job_id) == 4


def test_reservations_of_a_dead_worker_disappear_with_its_leases(database: Database) -> None:
    job_id = builders.job(database, 4)
    early, late = two_workers(database, job_id)
    builders.reserve(database, early)
    builders.complete(database, late)

    builders.kill(database, early[0].session_id)
    with database.transaction() as transaction:
        rescues.rescue(transaction)

    assert read(database, job_id) == [2, 3]
    builders.complete(database, builders.claim(database, late[0].session_id))
    assert sorted(read(database, job_id)) == [0, 1, 2, 3]


def test_a_worker_that_lost_its_reservation_takes_new_numbers(database: Database) -> None:
    job_id = builders.job(database, 4)
    early, late = two_workers(database, job_id)
    reserved = builders.reserve(database, early)
    builders.kill(database, early[0].session_id)
    with database.transaction() as transaction:  # nobody has its items yet
        numbers.release(transaction)
    builders.complete(database, late)
    last = last_number(database, job_id)

    builders.complete(database, early, reserved=reserved)

    assert read(database, job_id, after=last) == [0, 1]


def test_every_result_of_a_finished_job_is_read_whatever_is_still_reserved(
    database: Database,
) -> None:
    job_id = builders.job(database, 4)
    taken = builders.claim(database, builders.session(database))
    builders.reserve(database, taken)  # its commit was never answered
    builders.complete(database, taken)

    assert read(database, job_id) == [0, 1, 2, 3]
    assert last_number(database, job_id) == 8


def test_a_session_that_does_not_know_what_it_has_reserved_withdraws_it(
    database: Database,
) -> None:
    job_id = builders.job(database, 4)
    early, late = two_workers(database, job_id)
    builders.reserve(database, early)
    with database.transaction() as transaction:
        numbers.withdraw(transaction, [job_id], early[0].session_id)
    reserved = builders.reserve(database, early)

    builders.complete(database, early, reserved=reserved)
    builders.complete(database, late[:1])

    assert read(database, job_id) == [0, 1, 2]


def test_an_expired_session_reserves_nothing(database: Database) -> None:
    builders.job(database, 4)
    taken = builders.claim(database, builders.session(database))
    builders.kill(database, taken[0].session_id)

    assert builders.reserve(database, taken) == {}


def test_two_workers_write_results_of_one_job_at_once(database: Database) -> None:
    job_id = builders.job(database, 4)
    early, late = two_workers(database, job_id)
    reserved = builders.reserve(database, early)

    with database.transaction() as transaction:  # it has begun to write, and is not yet done
        numbers.take(transaction, [job_id], reserved)
        builders.complete(database, late)

        assert read(database, job_id) == []
