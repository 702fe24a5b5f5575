"""A soak: a service under everyday load and in peace, whose processes are to stay as they are."""

import contextlib
import os
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis
from sqlalchemy import text

from db.blobs.opening import open_store
from db.settings import StorageSettings
from db.sql.database import Database
from db.verification import Verification
from idefiq import Client
from tests import servers
from tests.faults.everyday import Everyday, receiver
from tests.faults.history import History, Pictures, Verdict
from tests.faults.surroundings import Surroundings
from tests.faults.world import World, world
from tests.faults.zygote import Zygote

SAMPLE_SECONDS = 1.0
#: Shares of the time: what comes before is warming up, what comes last is compared with it.
WARM, LAST = 0.4, 0.2
#: Growth of a role's memory that is nothing to worry about, an hour.
ALLOWED_SHARE, ALLOWED_MIB = 0.01, 2.0
#: Before that, a process still grows into its caches.
JUDGED_SECONDS = 1_800.0


@dataclass
class Soak:
    """What was measured: resident bytes, open files and threads by role; keys of Redis."""

    seconds: float
    verdict: Verdict = field(default_factory=Verdict)
    rounds: int = 0
    #: Blobs without a row, rows without a blob, deliveries that were not made.
    left_over: dict[str, int] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)

    def grown(self, what: str) -> tuple[float, float]:
        """A quantity after the warm-up and at the end, medians of a fifth of the time each."""
        values = self.samples[what]
        count = max(1, int(len(values) * LAST))
        begin = int(len(values) * WARM)
        return statistics.median(values[begin : begin + count]), statistics.median(values[-count:])

    def an_hour(self, what: str) -> float:
        """Growth of a quantity in an hour, at the rate between the two."""
        before, after = self.grown(what)
        return (after - before) / ((1 - WARM - LAST) * self.seconds) * 3_600

    def has_grown(self, what: str) -> bool:
        """True if a quantity has grown more than it may. A short soak judges no memory."""
        before, after = self.grown(what)
        if what.endswith("MiB"):
            allowed = before * ALLOWED_SHARE + ALLOWED_MIB
            return self.seconds >= JUDGED_SECONDS and self.an_hour(what) > allowed
        return after > before

    @property
    def faults(self) -> int:
        """What is not as it should be: answers, growth, and what is left over."""
        grown = sum(map(self.has_grown, self.samples))
        return sum(self.verdict.numbers.values()) + grown + sum(self.left_over.values())


def play(zygote: Zygote, surroundings: Surroundings, folder: Path, *, seconds: float) -> Soak:
    """Let users do what they do, and measure, for so many seconds."""
    report = Soak(seconds)
    images = Pictures(folder / "pictures", count=20)
    with receiver() as hook:
        settings = {
            "echo_batch_seconds": "0",
            "webhook_networks": '["127.0.0.0/8"]',
            "webhook_ports": f"[{hook.server_port}]",
        }
        with (
            world(zygote, surroundings, folder, engines=2, **settings) as service,  # type: ignore[arg-type]
            Client(service.url, timeout_seconds=120) as client,
        ):
            history = History(service.url)
            client.upload(list(images.paths.values()))
            users = Everyday(service.url, client, history, images)
            users.hear(f"http://127.0.0.1:{hook.server_port}/told")
            stop = threading.Event()
            measuring = threading.Thread(target=_measure, args=(service, report, stop))
            measuring.start()
            deadline = time.monotonic() + seconds
            try:
                while time.monotonic() < deadline:
                    users.round()
                    report.rounds += 1
            finally:
                stop.set()
                measuring.join()
                users.close()
            report.verdict = history.judge()
            report.left_over = _left_over(surroundings)
    return report


def _left_over(surroundings: Surroundings) -> dict[str, int]:
    """What differs between database and store once everything is written and told."""
    values = {
        name.removeprefix("IDEFIQ_").lower(): value for name, value in surroundings.env.items()
    }
    database = Database(surroundings.direct_url)
    store = open_store(StorageSettings.model_validate(values))
    found: dict[str, int] = {}

    def is_nothing() -> bool:
        found.clear()
        for difference in Verification(database, store).differences():
            found[difference.kind.value] = found.get(difference.kind.value, 0) + 1
        with database.snapshot() as transaction:
            query = text("SELECT count(*) FROM deliveries WHERE due_at IS NOT NULL")
            found["undelivered"] = transaction.execute(query).scalar_one()
            found["reserved"] = transaction.execute(
                text("SELECT count(*) FROM reservations")
            ).scalar_one()
        return not sum(found.values())

    with contextlib.suppress(pytest.fail.Exception):
        servers.wait_until(is_nothing, what="database and store that agree")
    database.dispose()
    return found


def _measure(service: World, report: Soak, stop: threading.Event) -> None:
    with redis.Redis(port=service.surroundings.redis.port) as direct:
        while not stop.wait(SAMPLE_SECONDS):
            report.samples.setdefault("Redis: keys", []).append(float(direct.dbsize()))
            for role in ("api", "engine", "intake", "upkeep"):
                pids = [process.pid for process in service.of(role)]
                for name, value in _of(pids).items():
                    report.samples.setdefault(f"{role}: {name}", []).append(value)


def _of(pids: Sequence[int]) -> dict[str, float]:
    """MiB, open files and threads of some processes together."""
    found = {"MiB": 0.0, "open files": 0.0, "threads": 0.0}
    for pid in pids:
        with contextlib.suppress(OSError):
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            found["MiB"] += pages * os.sysconf("SC_PAGE_SIZE") / 2**20
            found["open files"] += len(os.listdir(f"/proc/{pid}/fd"))
            found["threads"] += len(os.listdir(f"/proc/{pid}/task"))
    return found


def table(report: Soak) -> str:
    """The figures, a line each."""
    head = f"{report.verdict.items} items of jobs, {report.rounds} rounds, {report.seconds:.0f} s"
    rows = [f"| {head} | warm | end | an hour |", "|---|---:|---:|---:|"]
    for what in sorted(report.samples):
        before, after = report.grown(what)
        mark = " **grows**" if report.has_grown(what) else ""
        rows.append(f"| {what} | {before:.0f} | {after:.0f} | {report.an_hour(what):+.1f}{mark} |")
    rows += [f"| {what} in the end | | {count} | |" for what, count in report.left_over.items()]
    return "\n".join(rows)
