"""Usage: exact, kept, and counted without one worker waiting for another."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text

from db.queue import leases, usage
from db.queue.lease import Failure, Lease
from db.queue.usage import Amounts, DayStored, DayUsage
from db.sql.database import Database
from db.vocabulary.errors import FetchFailed, ImageUnreadable
from tests.db import builders
from tests.played import answer
from tests.workers import parts

LONG_AGO, FOREVER = date(2000, 1, 1), date(2100, 1, 1)


def read(database: Database, owner_id: int | None = None) -> list[DayUsage]:
    with database.snapshot() as transaction:
        return usage.by_day(transaction, owner_id, first=LONG_AGO, last=FOREVER)


def total(database: Database) -> Amounts:
    found = Amounts()
    for one in read(database):
        found.add(one.amounts)
    return found


def write(database: Database, folder: Path, taken: list[Lease], **ends: Any) -> None:
    """End items as a worker does."""
    session = parts.session(database, folder, lease_seconds=600)
    try:
        writer = parts.lease_writer(database, session)
        writer.write(answers=[(lease, answer("seen")) for lease in taken], **ends)
    finally:
        session.stop()


def test_an_answer_counts_its_tokens_images_and_time_on_the_device(
    database: Database, tmp_path: Path
) -> None:
    builders.job(database, 3)
    taken = builders.claim(database, builders.session(database))

    write(database, tmp_path, taken, device_seconds={lease.item_id: 0.5 for lease in taken})

    [one] = read(database)
    assert (one.owner, one.model) == ("ada", "echo")
    assert one.amounts == Amounts(
        items=3, images=3, prompt_tokens=30, completion_tokens=6, device_seconds=1.5
    )


def test_an_answer_that_is_written_twice_counts_once(database: Database, tmp_path: Path) -> None:
    builders.job(database, 2)
    taken = builders.claim(database, builders.session(database))

    for _ in range(2):
        write(database, tmp_path, taken)

    assert total(database).items == 2


def test_an_error_counts_when_it_is_final(database: Database, tmp_path: Path) -> None:
    builders.job(database, 2)
    final, later = builders.claim(database, builders.session(database))
    failures = [Failure(final, ImageUnreadable("no")), Failure(later, FetchFailed("not now"))]

    write(database, tmp_path, [], failures=failures)

    assert total(database) == Amounts(failed=1)


def test_an_answer_of_the_cache_costs_no_tokens(database: Database) -> None:
    builders.job(database)
    [lease] = builders.claim(database, builders.session(database))

    cached = {**answer("seen"), "cached": True}
    [(_, amounts)] = usage.of_answers([(lease, cached)], {lease.item_id: 9.0}).values()

    assert amounts == Amounts(items=1, cached=1, images=1)


def test_owners_see_their_own(database: Database, tmp_path: Path) -> None:
    bob = builders.owner(database, "bob")
    builders.job(database, 1)
    builders.job(database, 2, owner_id=bob)
    write(database, tmp_path, builders.claim(database, builders.session(database)))

    assert [(one.owner, one.amounts.items) for one in read(database, bob)] == [("bob", 2)]
    assert [one.owner for one in read(database)] == ["ada", "bob"]


def test_workers_write_rows_of_their_own_that_upkeep_sums_up_when_the_day_is_over(
    database: Database, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        builders.job(database, 2)
        session = builders.session(database, name)
        write(database, tmp_path, builders.claim(database, session))
    before = total(database)
    with database.transaction() as transaction:
        assert transaction.execute(text("SELECT count(*) FROM usage")).scalar_one() == 2
        assert usage.fold(transaction) == 0

    earlier = read(database)[0].day - timedelta(days=2)
    builders.age(database, 10_000, "sessions.alive_until")
    with database.transaction() as transaction:
        transaction.execute(text("UPDATE usage SET day = :day"), {"day": str(earlier)})
    for _ in range(2):
        with database.transaction() as transaction:
            usage.fold(transaction)

    with database.snapshot() as transaction:
        assert transaction.execute(text("SELECT session_id FROM usage")).scalars().all() == [""]
    assert total(database) == before
    assert [one.day for one in read(database)] == [earlier]


def test_usage_is_kept_when_jobs_are_deleted(database: Database, tmp_path: Path) -> None:
    builders.job(database)
    write(database, tmp_path, builders.claim(database, builders.session(database)))
    builders.age(database, 10 * 86_400, "jobs.finished_at")

    upkeep = parts.upkeep(database, tmp_path, keep_jobs_days=1)
    while upkeep.run_once():
        pass

    with database.snapshot() as transaction:
        assert transaction.execute(text("SELECT count(*) FROM jobs")).scalar_one() == 0
    assert total(database).items == 1


def test_an_item_that_hung_the_device_too_often_counts_as_failed(
    database: Database, tmp_path: Path
) -> None:
    builders.job(database)
    for hang in range(leases.MAX_HANGS):
        [lease] = builders.claim(database, builders.session(database, f"hang {hang}"))
        session = parts.session(database, tmp_path, lease_seconds=600)
        parts.lease_writer(database, session).mark_suspects([lease])
        session.stop()

    assert total(database) == Amounts(failed=1)


def test_stored_bytes_are_kept_for_each_day_as_they_were_counted_last(database: Database) -> None:
    ada, bob = builders.owner(database, "ada"), builders.owner(database, "bob")
    builders.checked_image(database, ada)
    for _ in range(2):
        with database.transaction() as transaction:
            usage.sample_stored(transaction)
    assert [(one.owner, one.stored_bytes) for one in stored(database)] == [("ada", 10)]

    builders.checked_image(database, bob)
    builders.checked_image(database, bob, "f" * 64)
    with database.transaction() as transaction:
        transaction.execute(text("DELETE FROM blobs WHERE owner_id = :ada"), {"ada": ada})
        usage.sample_stored(transaction)

    assert [(one.owner, one.stored_bytes) for one in stored(database)] == [("ada", 0), ("bob", 20)]
    assert [one.owner for one in stored(database, bob)] == ["bob"]


def stored(database: Database, owner_id: int | None = None) -> list[DayStored]:
    with database.snapshot() as transaction:
        return usage.stored_by_day(transaction, owner_id, first=LONG_AGO, last=FOREVER)
