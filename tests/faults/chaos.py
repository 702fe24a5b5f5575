"""A seeded round: users submit and read while everything around them breaks at random moments."""

import contextlib
import random
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import text

from db.sql.database import Database
from db.vocabulary.errors import StorageError
from idefiq import Client, IdefiqError
from tests.faults.history import History, Pictures, Verdict
from tests.faults.surroundings import Surroundings
from tests.faults.world import World, world
from tests.faults.zygote import Process, Zygote

#: Items of a job, and how many jobs are open at the same time.
JOB_ITEMS, OPEN_JOBS = 120, 6


@dataclass
class Report:
    """What a round did, and what came of it. Times in seconds."""

    surroundings: str
    seed: int
    verdict: Verdict = field(default_factory=Verdict)
    faults: Counter[str] = field(default_factory=Counter)
    #: From the kill of a worker to the answer of an item that it had, by another.
    recoveries: list[float] = field(default_factory=list)
    executions: int = 0
    failed: int = 0

    @property
    def kills(self) -> int:
        """Processes killed without a word."""
        return sum(count for name, count in self.faults.items() if name.startswith("kill "))

    def recovery(self, share: float) -> float:
        """A quantile of the recoveries."""
        if len(self.recoveries) < 2:
            return max(self.recoveries, default=0.0)
        return statistics.quantiles(self.recoveries, n=100)[round(share * 100) - 1]


class Chaos:
    """Breaks things in a service until it is told to stop."""

    def __init__(self, world: World, rng: random.Random, report: Report, every: float) -> None:
        self._world, self._rng, self._report = world, rng, report
        self._every = every
        self._record = Database(world.surroundings.direct_url, pool=1)
        #: When the worker of an item, by its id, was last killed.
        self._killed: dict[int, float] = {}
        self._stopped: list[tuple[float, Process]] = []
        self._mends: list[tuple[float, Callable[[], None]]] = []

    def run(self, seconds: float) -> None:
        """Break something every now and then, and mend it a little later."""
        faults: list[tuple[int, Callable[[], str]]] = [
            (10, lambda: self._kill("engine")),
            (2, lambda: self._kill("intake")),
            (2, lambda: self._kill("upkeep")),
            (1, lambda: self._kill("api")),
            (1, self._freeze),
            (1, self._retire),
            (1, self._empty_redis),
            (1, self._kill_redis),
            (2, self._break_link),
        ]
        if self._world.surroundings.database_link:
            faults.append((2, self._terminate_backends))
        weights = [weight for weight, _ in faults]
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(self._rng.expovariate(1 / self._every))
            self._mend_what_is_due()
            [(_, fault)] = self._rng.choices(faults, weights)
            self._report.faults[fault()] += 1
            self._world.replace_dead()
        self.mend()

    def mend(self) -> None:
        """Let everything be whole again."""
        self._mend_what_is_due(everything=True)
        self._world.replace_dead()

    def measure(self) -> None:
        """Read from the record how long items took to be answered elsewhere."""
        with self._record.snapshot() as transaction:
            rows = transaction.execute(
                text("SELECT id, finished_at, attempt, state FROM items")
            ).all()
        began = time.time() - time.monotonic()
        for row in rows:
            self._report.executions += row.attempt
            self._report.failed += row.state == "failed"
            if row.id in self._killed and row.finished_at:
                finished = _seconds(row.finished_at)
                self._report.recoveries.append(finished - (began + self._killed[row.id]))
        self._record.dispose()

    # ---- faults, each with its name ----------------------------------------------------

    def _kill(self, role: str) -> str:
        victims = self._world.of(role)
        if victims:
            victim = self._rng.choice(victims)
            held = self._held_by(victim) if role == "engine" else []
            # It may have ended by itself, if the database was away when it started.
            self._world.end(victim)
            self._killed.update(dict.fromkeys(held, time.monotonic()))
            # Half of them come back under their name, the others as somebody else.
            same = self._rng.random() < 0.5 or role == "api"
            self._world.start(role, victim.name.partition("#")[0] if same else None)
        return f"kill {role}"

    def _held_by(self, victim: Process) -> Sequence[int]:
        name = f"%@{victim.name.partition('#')[0]}"
        with contextlib.suppress(StorageError), self._record.snapshot() as transaction:
            rows = transaction.execute(
                text(
                    "SELECT items.id FROM items JOIN sessions ON sessions.id = session_id"
                    " WHERE items.state = 'running' AND worker LIKE :name"
                ),
                {"name": name},
            )
            return rows.scalars().all()
        return []

    def _freeze(self) -> str:
        victim = self._rng.choice(self._world.of("engine") + self._world.of("upkeep"))
        victim.send(signal.SIGSTOP)
        # Sometimes longer than its lease.
        self._later(self._rng.choice([0.5, 2.0, 25.0]), lambda: victim.send(signal.SIGCONT))
        return "stop for a while"

    def _retire(self) -> str:
        victim = self._rng.choice(self._world.of("engine"))
        victim.send(signal.SIGCONT)
        victim.send(signal.SIGTERM)
        self._world.processes.remove(victim)
        self._world.start("engine")
        self._later(15.0, lambda: victim.send(signal.SIGKILL))
        return "end politely"

    def _empty_redis(self) -> str:
        with contextlib.suppress(Exception):
            self._world.surroundings.redis.empty()
        return "empty Redis"

    def _kill_redis(self) -> str:
        redis = self._world.surroundings.redis
        redis.kill()
        self._later(self._rng.uniform(0.1, 2.0), redis.start)
        return "kill Redis"

    def _break_link(self) -> str:
        link = self._rng.choice(self._world.surroundings.links)
        how = self._rng.choice(["cut", "snap", "hang", "delay", "drop"])
        if how == "cut":
            link.cut()
        elif how == "snap":
            link.snap()
        elif how == "hang":
            link.hangs = True
        elif how == "delay":
            link.delay = 0.05
        else:
            link.drops = 0.3
        self._later(self._rng.uniform(0.2, 2.0), link.mend)
        return f"{how} a link"

    def _terminate_backends(self) -> str:
        with contextlib.suppress(Exception):
            self._world.surroundings.terminate_backends()
        return "end database connections"

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        self._mends.append((time.monotonic() + seconds, action))

    def _mend_what_is_due(self, *, everything: bool = False) -> None:
        now, waiting = time.monotonic(), self._mends
        self._mends = []
        for due, action in waiting:
            if everything or due <= now:
                action()
            else:
                self._mends.append((due, action))


def _seconds(moment: object) -> float:
    """A timestamp of either database, as seconds since the epoch."""
    from datetime import UTC, datetime

    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment).replace(tzinfo=UTC)
    assert isinstance(moment, datetime)
    return moment.timestamp()


class Users:
    """Threads that keep some jobs open, read along, and cancel or pause now and then."""

    def __init__(self, history: History, pictures: Pictures, seed: int) -> None:
        self._history, self._pictures = history, pictures
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._live, args=(random.Random(seed + n),), daemon=True)
            for n in range(2)
        ]

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Inside the block."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def _live(self, rng: random.Random) -> None:
        references = list(self._pictures.paths)
        with Client(self._history.url) as client:
            uploaded = False
            while not self._stop.is_set():
                try:
                    if not uploaded:
                        client.upload(list(self._pictures.paths.values()))
                        uploaded = True
                    self._submit_one(client, rng, references)
                except IdefiqError:
                    time.sleep(0.2)

    def _submit_one(self, client: Client, rng: random.Random, references: list[str]) -> None:
        open_jobs = [job for job in client.jobs() if not job.is_final]
        if len(open_jobs) >= OPEN_JOBS:
            time.sleep(0.2)
            return
        # Of some images few items speak, so that intake has something to do all the time.
        chosen = rng.choices(references, k=JOB_ITEMS)
        made = self._history.submit(client, self._pictures.ask(chosen, f"job {rng.random()}"))
        if rng.random() < 0.5:
            self._history.read_along(made)
        if rng.random() < 0.1:
            made.cancelled = True
            client.cancel(made.job)
        elif rng.random() < 0.1:
            client.pause(made.job)
            client.resume(made.job)


def play(
    zygote: Zygote, surroundings: Surroundings, folder: Path, *, seed: int, seconds: float
) -> Report:
    """One round: torment for so many seconds, then let everything finish, then judge."""
    report = Report(surroundings.name, seed)
    rng = random.Random(seed)
    pictures = Pictures(folder / "pictures", count=48)
    with world(zygote, surroundings, folder, engines=3, intakes=2, upkeeps=2) as service:
        history = History(service.url)
        chaos = Chaos(service, rng, report, every=0.35)
        with Users(history, pictures, seed).at_work():
            chaos.run(seconds)
        report.verdict = history.judge()
        chaos.measure()
    return report
