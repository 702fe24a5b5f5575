"""A pause or a cancellation that has returned is respected by every claim that follows."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text

from db.queue import claims, gate, jobs
from db.queue.lease import Lease
from db.sql.database import Database, Transaction
from db.vocabulary.states import Stage
from tests.db import builders

_WAITING = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND wait_event_type = 'Lock' AND wait_event = 'advisory'"
)


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    """Postgres alone: SQLite has one writer, and needs no gate."""
    made = Database(postgres_url)
    yield made
    made.dispose()


def wait_for(database: Database, waiting: int) -> None:
    """Until so many transactions wait at a gate."""
    while True:
        with database.snapshot() as transaction:
            if transaction.execute(_WAITING).scalar_one() == waiting:
                return
        time.sleep(0.01)


def claim_in(transaction: Transaction, session: str, limit: int) -> list[Lease]:
    return claims.claim(
        transaction, session=session, stage=Stage.GENERATE, model=builders.MODEL, limit=limit
    )


def pause(transaction: Transaction, owner_id: int, job_id: str) -> Any:
    return jobs.pause(transaction, owner_id, job_id, paused=True)


@pytest.mark.parametrize("stop", [pause, jobs.cancel])
def test_a_stop_waits_for_the_claim_inside_and_later_claims_wait_for_the_stop(
    database: Database, stop: Callable[[Transaction, int, str], Any]
) -> None:
    job_id = builders.job(database, 4)
    owner_id = builders.owner(database)
    session, later = builders.session(database, "w1"), builders.session(database, "w2")

    def stopped() -> None:
        with database.transaction() as transaction:
            stop(transaction, owner_id, job_id)

    with ThreadPoolExecutor(2) as threads:
        with database.transaction() as transaction:
            assert len(claim_in(transaction, session, 2)) == 2
            stopping: Future[None] = threads.submit(stopped)
            wait_for(database, 1)
            claiming = threads.submit(builders.claim, database, later)
            wait_for(database, 2)
        stopping.result()

        assert claiming.result() == []
    assert builders.counts(database, job_id) == {"queued": 2, "running": 2}


def test_claims_of_one_job_do_not_wait_for_each_other(database: Database) -> None:
    job_id = builders.job(database, 4)
    sessions = [builders.session(database, name) for name in ("w1", "w2")]
    taken: list[list[Lease]] = []

    def claim(session: str, barrier: threading.Barrier) -> None:
        with database.transaction() as transaction:
            gate.enter(transaction, [job_id])
            barrier.wait(60)
            taken.append(claim_in(transaction, session, 2))

    barrier = threading.Barrier(2)
    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(claim, session, barrier) for session in sessions]:
            done.result()

    assert sorted(lease.item_id for some in taken for lease in some) == sorted(
        {lease.item_id for some in taken for lease in some}
    )
    assert builders.counts(database, job_id) == {"running": 4}
