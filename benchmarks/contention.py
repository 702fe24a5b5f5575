"""`make bench-contention`: many workers on one job, against bare loops and each other.

    queue    N processes: claim a batch, write its answers, as a worker's lease writer does
    bare     N processes: the same rows with two bare UPDATEs a batch; see bare.py

On Postgres, in turn, in the same tables, without a model and without an API. While the queue's
processes run, pg_stat_activity is sampled: a backend that waits for another's lock counts.
"""

import argparse
import contextlib
import json
import multiprocessing
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg

from benchmarks import bare
from benchmarks.figures import spread
from benchmarks.queue import BATCH, plain
from db import owners
from db.queue import claims, leases, numbers, sessions, submissions
from db.queue.lease import Lease
from db.queue.submissions import NewItem, NewJob
from db.sql.database import Database
from db.sql.schema import migrate
from db.vocabulary.states import Stage
from tests.servers import postgres

MODEL = "echo"
ANSWER = {
    "text": "a cat on a sofa",
    "finish_reason": "stop",
    "prompt_tokens": 90,
    "completion_tokens": 6,
    "model": MODEL,
    "issues": [],
}
SAMPLE_SECONDS = 0.01
_SAMPLE = """
    SELECT count(*) FILTER (WHERE wait_event_type = 'Lock'), count(*) FROM pg_stat_activity
    WHERE application_name = 'contention' AND state <> 'idle'
"""


def new_job(database: Database, count: int) -> str:
    """A job of texts that is ready for the engine."""
    with database.transaction() as transaction:
        owner_id = owners.get_or_create(transaction, "bench").id
        new = NewJob(owner_id, MODEL, {"kind": "generate"})
        lines = [NewItem({"prompt": f"number {n}"}, f"photo {n}") for n in range(count)]
        return submissions.submit(transaction, new, lines)[0]


def _work(url: str, go: Callable[[], None]) -> None:
    database = Database(url)
    with database.transaction() as transaction:
        session = sessions.start(
            transaction,
            worker=multiprocessing.current_process().name,
            stage=Stage.GENERATE,
            model=MODEL,
            lease_seconds=3_600,
        )

    answer_all(database, session, "nothing")  # statements are compiled
    go()
    answer_all(database, session, MODEL)


def answer_all(database: Database, session: str, model: str) -> None:
    """Claim and complete whatever is due, in batches, as a worker's lease writer does."""

    def claim() -> list[Lease]:
        with database.transaction() as transaction:
            return claims.claim(
                transaction, session=session, stage=Stage.GENERATE, model=model, limit=BATCH
            )

    while taken := claim():
        wanted = dict(Counter(lease.job_id for lease in taken))
        with database.transaction() as transaction:
            reserved = numbers.reserve(transaction, wanted, session)
        with database.transaction() as transaction:
            leases.complete(transaction, [(lease, ANSWER) for lease in taken], {}, reserved)


@contextlib.contextmanager
def sampling(url: str) -> Iterator[list[tuple[int, int]]]:
    """Sample how many backends wait for a lock, of how many that are busy."""
    samples: list[tuple[int, int]] = []
    stop = threading.Event()

    def sample() -> None:
        with psycopg.connect(plain(url), autocommit=True) as connection:
            while not stop.wait(SAMPLE_SECONDS):
                waiting, busy = connection.execute(_SAMPLE).fetchone() or (0, 0)
                samples.append((int(waiting), int(busy)))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


def measure(url: str, count: int, workers: int) -> dict[str, float]:
    """One round: items/s of the queue and of bare loops, and the share of waits for locks."""
    database = Database(url)
    job_id = new_job(database, count)
    other, rows = bare.twin(plain(url), job_id)
    bare.copy(plain(url), rows)
    named = f"{url}{'&' if '?' in url else '?'}application_name=contention"
    with sampling(url) as samples:
        seconds = bare.side_by_side(_work, (named,), workers)
    looped = bare.claim_and_end(plain(url), other, ANSWER, batch=BATCH, processes=workers)
    waiting, busy = (sum(column) for column in zip(*samples, strict=True))
    return {"queue": count / seconds, "bare": count / looped, "waits": waiting / max(1, busy)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Many workers on one job, on Postgres.")
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--out", type=Path, default=Path("build/bench-contention.json"))
    arguments = parser.parse_args()
    rounds: dict[int, list[dict[str, float]]] = {workers: [] for workers in arguments.workers}
    with postgres(durable=True) as url:
        migrate(Database(url))
        measure(url, 1_000, 2)
        for _ in range(arguments.rounds):
            for workers in arguments.workers:
                rounds[workers].append(measure(url, arguments.items, workers))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(rounds, indent=2))
    fewer = None
    for workers, measured in rounds.items():
        ratio = spread([one["queue"] / one["bare"] for one in measured])
        waits = spread([one["waits"] for one in measured])
        line = f"{workers} workers: ÷ bare {ratio['median']:.2f}"
        line += f" ({ratio['min']:.2f} – {ratio['max']:.2f}), waits {waits['median']:.1%}"
        if fewer:
            more = [a["queue"] / b["queue"] for a, b in zip(measured, rounds[fewer], strict=True)]
            line += f", ÷ {fewer} workers {spread(more)['median']:.2f}"
        print(line, flush=True)
        fewer = workers


if __name__ == "__main__":
    main()
