"""A worker's session: kept alive, found lost, abandoned."""

from pathlib import Path

import pytest
from sqlalchemy import text

from db.sql.database import Database
from db.vocabulary.errors import StorageError
from tests import servers
from tests.db import builders
from tests.workers import parts
from workers.lease_writer import holding


def test_a_heartbeat_keeps_leases_longer_than_one_lease(database: Database, tmp_path: Path) -> None:
    builders.job(database)
    session = parts.session(database, tmp_path, lease_seconds=3.0)
    [lease] = builders.claim(database, session.id)
    first = session.safe_until

    servers.wait_until(lambda: session.safe_until > first + 4.0)

    assert session.holds(session.id)
    assert builders.complete(database, [lease]) == {lease.item_id}
    session.stop()


def test_a_session_that_expired_is_replaced_and_its_leases_do_not_hold(
    database: Database, tmp_path: Path
) -> None:
    session = parts.session(database, tmp_path)
    old = session.id

    builders.kill(database, old)
    servers.wait_until(lambda: session.id != old)

    assert not session.holds(old)
    assert session.holds(session.id)
    session.stop()


def test_a_stopped_session_leaves_nothing_leased(database: Database, tmp_path: Path) -> None:
    job_id = builders.job(database)
    session = parts.session(database, tmp_path)
    builders.claim(database, session.id)

    session.stop()
    builders.session(database, "another")  # whoever comes next rescues

    assert builders.counts(database, job_id) == {"queued": 1}


@pytest.mark.parametrize("error", [StorageError("away"), ZeroDivisionError(), KeyboardInterrupt()])
def test_whatever_goes_wrong_after_a_claim_frees_its_items_soon(
    database: Database, tmp_path: Path, error: BaseException
) -> None:
    job_id = builders.job(database, items=3)
    session = parts.session(database, tmp_path, lease_seconds=600.0)

    def work() -> None:
        with holding(session) as session_id:
            builders.claim(database, session_id)
            raise error

    claimed_under = session.id
    with pytest.raises(type(error)):
        work()

    assert not session.holds(claimed_under)
    servers.wait_until(lambda: builders.counts(database, job_id) == {"queued": 3})
    servers.wait_until(lambda: session.holds(session.id))
    session.stop()


def test_a_heartbeat_survives_unexpected_errors(database: Database, tmp_path: Path) -> None:
    session = parts.session(database, tmp_path, lease_seconds=0.5)
    with database.transaction() as transaction:
        transaction.execute(text("ALTER TABLE sessions RENAME TO hidden"))
    servers.wait_until(lambda: not session.holds(session.id))
    with database.transaction() as transaction:
        transaction.execute(text("ALTER TABLE hidden RENAME TO sessions"))

    servers.wait_until(lambda: session.holds(session.id))

    session.stop()


def test_to_release_nothing_asks_nothing_of_a_database_that_is_away(
    database: Database, tmp_path: Path
) -> None:
    """So that a worker that stops keeps its session for what still runs."""
    session = parts.session(database, tmp_path)
    writer = parts.lease_writer(database, session)
    with database.transaction() as transaction:
        transaction.execute(text("ALTER TABLE items RENAME TO hidden"))

    writer.release([])

    assert session.holds(session.id)
    with database.transaction() as transaction:
        transaction.execute(text("ALTER TABLE hidden RENAME TO items"))
    session.stop()
