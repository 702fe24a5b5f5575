"""`make bench-size`: what the queue does with ten million items, against one million.

    claim + complete   a small job, through the statements of a worker's lease writer
    page, first/last   a thousand results at the beginning and at the end of a job of a million
    delete             the items of a deleted job, in pages as upkeep does it
    vacuum             of the table of items, after that

On Postgres, in one process, in the same tables: the items that fill them are finished, and written
by one statement a job. Each figure is the cost at the last size ÷ that at the first. Expected: 1
for all but vacuum, which reads the indexes of the whole table and so may follow the size.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

from benchmarks.contention import ANSWER, MODEL, answer_all, new_job
from benchmarks.queue import plain
from db.queue import results, retention, sessions
from db.sql.database import Database
from db.sql.schema import migrate
from db.vocabulary.states import Stage
from tests.servers import postgres

JOB_ITEMS = 1_000_000
PAGE = 1_000
#: Items of the jobs that are measured: claimed and completed, or deleted.
SMALL, DELETED = 5_000, 50_000
_FILL = """
    INSERT INTO items (owner_id, job_id, ordinal, custom_id, request, options_digest, stage, state,
                       due_at, claimed_at, finished_at, result_number, answer, attempt)
    SELECT owner_id, id, n - 1, 'photo ' || n, jsonb_build_object('prompt', 'number ' || n),
           'digest', 'generate', 'succeeded', created_at, created_at, created_at, n, %s::jsonb, 1
    FROM jobs, generate_series(1, %s) AS n WHERE id = %s
"""


def fill(url: str, database: Database, count: int) -> str:
    """A finished job of so many items."""
    job_id = new_job(database, 0)
    with psycopg.connect(plain(url), autocommit=True) as connection:
        connection.execute(_FILL, [json.dumps(ANSWER), count, job_id])
        connection.execute(
            "UPDATE jobs SET total = %s, succeeded = %s, results = %s WHERE id = %s",
            [count, count, count, job_id],
        )
    return job_id


def _seconds(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _delete(database: Database, job_id: str) -> None:
    with database.transaction() as transaction:
        retention.soft_delete_job(transaction, 1, job_id)
    gone = PAGE
    while gone:
        with database.transaction() as transaction:
            gone = retention.purge_items(transaction, job_id, PAGE)


def measure(url: str, database: Database, session: str, large: str) -> dict[str, float]:
    """Seconds of each thing."""

    def page(after: int) -> None:
        with database.snapshot() as transaction:
            found = results.finished_after(transaction, large, number=after, limit=PAGE)
        assert len(found) == PAGE

    def vacuum() -> None:
        with psycopg.connect(plain(url), autocommit=True) as connection:
            connection.execute("VACUUM items")

    new_job(database, SMALL)
    measured = {"claim + complete": _seconds(lambda: answer_all(database, session, MODEL))}
    measured["page, first"] = _seconds(lambda: page(0))
    measured["page, last"] = _seconds(lambda: page(JOB_ITEMS - PAGE))
    doomed = fill(url, database, DELETED)
    measured["delete"] = _seconds(lambda: _delete(database, doomed))
    measured["vacuum"] = _seconds(vacuum)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description="The queue's costs as its tables grow.")
    parser.add_argument("--millions", type=int, nargs="*", default=[1, 10])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("build/bench-size.json"))
    arguments = parser.parse_args()
    found: dict[int, dict[str, float]] = {}
    with postgres() as url:
        database = Database(url)
        migrate(database)
        with database.transaction() as transaction:
            session = sessions.start(
                transaction, worker="w", stage=Stage.GENERATE, model=MODEL, lease_seconds=86_400
            )
        filled, large = 0, ""
        for millions in arguments.millions:
            while filled < millions:
                large, filled = fill(url, database, JOB_ITEMS), filled + 1
            with psycopg.connect(plain(url), autocommit=True) as connection:
                connection.execute("VACUUM ANALYZE")
            rounds = [measure(url, database, session, large) for _ in range(arguments.rounds)]
            found[millions] = {
                name: statistics.median(one[name] for one in rounds) for name in rounds[0]
            }
        database.dispose()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=2))
    first, last = arguments.millions[0], arguments.millions[-1]
    for name, seconds in found[last].items():
        print(f"{name}: cost at {last} ÷ {first} million items {seconds / found[first][name]:.2f}")


if __name__ == "__main__":
    main()
