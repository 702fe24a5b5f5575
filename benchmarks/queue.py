"""`make bench-queue`: the queue without a model, against bare SQL.

    accept            POST of NDJSON ─▶ 202      ÷  COPY of the same rows (until claimable: apart)
    claim + complete  two echo workers           ÷  two bare loops of UPDATEs on the same rows
    export            GET of all results         ÷  reading them in pages

On Postgres, in turn, in one sitting, in the same tables. `--sizes` then takes jobs of each size
through a fresh service and reports what an item costs and the peak memory of each process.
Expected before the first run: 0.2, 0.5 and 0.2.
"""

import argparse
import contextlib
import http.client
import json
import tempfile
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import make_url

from benchmarks import bare
from benchmarks.figures import spread
from benchmarks.service import peak_mebibytes, processes
from idefiq import Client
from idefiq.up import Stack
from tests.servers import postgres

LOOK_SECONDS = 0.02
#: Items that a worker claims at once, and a bare loop too.
BATCH = 256
#: Rows of a page, as the API reads them.
PAGE = 1_000


def body(count: int) -> bytes:
    """A streamed submission as a program writes it: texts alone, so that nothing is decoded."""
    job = {"job": {"model": "echo", "defaults": {"kind": "generate"}}}
    items = ({"custom_id": f"photo {n}", "prompt": f"number {n}"} for n in range(count))
    return "\n".join(json.dumps(line) for line in (job, *items)).encode()


@dataclass(frozen=True, slots=True)
class Queue:
    """A running service with two echo workers on a database of its own."""

    stack: Stack
    client: Client
    url: str

    def accept(self, submission: bytes) -> tuple[str, float, float]:
        """Submit. Returns the job, paused, and the seconds until 202 and until it is claimable."""
        began = time.monotonic()
        job_id = json.loads(self._request("POST", "/v1/jobs", submission))["id"]
        accepted = time.monotonic() - began
        self.client.pause(job_id)
        while self.client.job(job_id).state == "importing":
            time.sleep(LOOK_SECONDS)
        return job_id, accepted, time.monotonic() - began

    def work(self, job_id: str) -> float:
        """Seconds until the two workers have answered everything."""
        began = time.monotonic()
        self.client.resume(job_id)
        job = self.client.wait(job_id)
        seconds = time.monotonic() - began
        if job.counts.succeeded != job.counts.total:
            raise SystemExit(f"the job ended with {job.counts}")
        return seconds

    def export(self, job_id: str) -> float:
        """Seconds to read all results from the record over HTTP."""
        began = time.monotonic()
        lines = self._request("GET", f"/v1/jobs/{job_id}/results").count(b"\n")
        seconds = time.monotonic() - began
        if lines != self.client.job(job_id).counts.total:
            raise SystemExit(f"{lines} results were exported")
        return seconds

    def wait_written(self, job_id: str) -> None:
        """Until upkeep has written the results, so that it takes no time of what comes next."""
        with psycopg.connect(plain(self.url)) as connection:
            query = "SELECT results_key FROM jobs WHERE id = %s"
            while not connection.execute(query, (job_id,)).fetchone()[0]:  # type: ignore[index]
                connection.rollback()
                time.sleep(LOOK_SECONDS)

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        address = urllib.parse.urlsplit(self.stack.url)
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=1_800)
        kind = "application/x-ndjson"
        key = {"authorization": f"Bearer {self.stack.api_key}"}
        connection.request(method, path, body, {"content-type": kind, "accept": kind, **key})
        answer = connection.getresponse()
        pieces = b"".join(iter(lambda: answer.read(2**20), b""))
        connection.close()
        if answer.status >= 300:
            raise SystemExit(f"{method} {path}: {answer.status} {pieces[:500]!r}")
        return pieces


def plain(url: str) -> str:
    """A URL of SQLAlchemy as the driver takes it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def new_database(maintenance: str, name: str) -> str:
    """Make an empty database. Returns its URL."""
    with psycopg.connect(plain(maintenance), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return make_url(maintenance).set(database=name).render_as_string(hide_password=False)


@contextlib.contextmanager
def service(maintenance: str, name: str) -> Iterator[Queue]:
    """A fresh service with two echo workers."""
    url = new_database(maintenance, name)
    with tempfile.TemporaryDirectory() as folder:
        extra = {
            "IDEFIQ_DATABASE_URL": url,
            "IDEFIQ_BATCH_ITEMS": str(BATCH),
            "IDEFIQ_REUSE_ANSWERS": "false",
        }
        log = Path(folder) / "service.log"
        stack = Stack(Path(folder) / "data", port=0, models=["echo"] * 2, log=log, extra=extra)
        with stack.running(), Client(stack.url, timeout_seconds=600) as client:
            yield Queue(stack, client, url)


def compare(maintenance: str, count: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Ratios of rates, service ÷ bare, round by round; what is not compared is in seconds."""
    submission = body(count)
    arms: dict[str, dict[str, list[float]]] = {}

    def note(name: str, **seconds: float) -> None:
        for arm, value in seconds.items():
            arms.setdefault(name, {}).setdefault(arm, []).append(value)

    with service(maintenance, "service") as queue:
        warm, _, _ = queue.accept(body(200))
        queue.work(warm)
        url = plain(queue.url)
        for _ in range(rounds):
            job_id, accepted, claimable = queue.accept(submission)
            other, rows = bare.twin(url, job_id)
            copied = bare.copy(url, rows)
            note("accept", service=accepted, bare=copied)
            note("accept until claimable", service=claimable, bare=copied)
            worked = queue.work(job_id)
            queue.wait_written(job_id)
            answer = _answer(queue, job_id)
            looped = bare.claim_and_end(url, other, answer, batch=BATCH, processes=2)
            note("claim + complete", service=worked, bare=looped)
            exported = queue.export(job_id)
            note("export", service=exported, bare=bare.read(url, other, page=PAGE))
    return arms


def _answer(queue: Queue, job_id: str) -> dict[str, Any]:
    with psycopg.connect(plain(queue.url)) as connection:
        query = "SELECT answer FROM items WHERE job_id = %s AND ordinal = 0"
        row = connection.execute(query, (job_id,)).fetchone()
    assert row
    answer: dict[str, Any] = row[0]
    return answer


def scale(maintenance: str, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Cost of an item in jobs of different sizes, and the peak memory meanwhile."""
    told = []
    with service(maintenance, "scale") as queue:
        warm, _, _ = queue.accept(body(200))
        queue.work(warm)
        queue.wait_written(warm)
        for size in sizes:
            for pid in processes(queue.stack).values():
                Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak starts anew
            submission = body(size)
            before = _cpu_seconds(queue.stack)
            job_id, accepted, claimable = queue.accept(submission)
            worked = queue.work(job_id)
            queue.wait_written(job_id)
            exported = queue.export(job_id)
            spent = _cpu_seconds(queue.stack) - before
            told.append(
                {
                    "items": size,
                    "microseconds_per_item": {
                        "accept": accepted / size * 1e6,
                        "accept until claimable": claimable / size * 1e6,
                        "claim + complete": worked / size * 1e6,
                        "export": exported / size * 1e6,
                        "processor": spent / size * 1e6,
                    },
                    "peak_mebibytes": peak_mebibytes(queue.stack),
                }
            )
            print(json.dumps(told[-1]), flush=True)
    return told


def _cpu_seconds(stack: Stack) -> float:
    """Processor time of all processes of the service so far."""
    ticks = 0
    for pid in processes(stack).values():
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(after_name[11]) + int(after_name[12])
    return ticks / 100


def summary(arms: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    """Median and spread of the ratio of rates."""
    ratios = {
        name: [b / s for s, b in zip(arm["service"], arm["bare"], strict=True)]
        for name, arm in arms.items()
    }
    return {name: spread(some) for name, some in ratios.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="The queue ÷ bare SQL, on Postgres.")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="*", default=[], help="jobs of so many items")
    parser.add_argument("--out", type=Path, default=Path("build/bench-queue.json"))
    arguments = parser.parse_args()
    with postgres(durable=True) as maintenance:
        arms = compare(maintenance, arguments.items, arguments.rounds) if arguments.rounds else {}
        sizes = scale(maintenance, arguments.sizes) if arguments.sizes else []
    ratios = summary(arms)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    told = {"items": arguments.items, "seconds": arms, "ratios": ratios, "sizes": sizes}
    arguments.out.write_text(json.dumps(told, indent=2))
    parts = [
        f"{name} {one['median']:.3f} ({one['min']:.3f} – {one['max']:.3f})"
        for name, one in ratios.items()
    ]
    print(f"bench-queue: ÷ bare SQL: {'; '.join(parts)}; n {arguments.rounds}")


if __name__ == "__main__":
    main()
