"""A shortened soak: a service under load and in peace, whose processes are to stay as they are."""

import contextlib
import os
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import redis

from idefiq import Client
from tests.faults.history import History, Pictures, Verdict
from tests.faults.surroundings import Surroundings
from tests.faults.world import World, world
from tests.faults.zygote import Zygote

SAMPLE_SECONDS = 1.0
JOB_ITEMS = 400
#: Shares of the time: what comes before is warming up, what comes last is compared with it.
WARM, LAST = 0.4, 0.2


@dataclass
class Soak:
    """What was measured: resident bytes, open files and threads by role; keys of Redis."""

    seconds: float
    verdict: Verdict = field(default_factory=Verdict)
    samples: dict[str, list[float]] = field(default_factory=dict)

    def grown(self, what: str) -> tuple[float, float]:
        """A quantity after the warm-up and at the end, medians of a fifth of the time each."""
        values = self.samples[what]
        count = max(1, int(len(values) * LAST))
        begin = int(len(values) * WARM)
        return statistics.median(values[begin : begin + count]), statistics.median(values[-count:])


def play(zygote: Zygote, surroundings: Surroundings, folder: Path, *, seconds: float) -> Soak:
    """Submit, read, wait, and measure, for so many seconds."""
    report = Soak(seconds)
    pictures = Pictures(folder / "pictures", count=20)
    settings = {"echo_batch_seconds": "0"}
    with world(zygote, surroundings, folder, engines=2, **settings) as service:  # type: ignore[arg-type]
        history = History(service.url)
        stop = threading.Event()
        measuring = threading.Thread(target=_measure, args=(service, report, stop))
        measuring.start()
        deadline = time.monotonic() + seconds
        with Client(service.url) as client:
            client.upload(list(pictures.paths.values()))
            while time.monotonic() < deadline:
                references = (list(pictures.paths) * JOB_ITEMS)[:JOB_ITEMS]
                made = history.submit(client, pictures.ask(references, "soak"))
                history.read_along(made)
                client.wait(made.job)
        stop.set()
        measuring.join()
        report.verdict = history.judge()
    return report


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
    rows = [f"| {report.verdict.items} items, {report.seconds:.0f} s | warm | end | ratio |"]
    rows.append("|---|---:|---:|---:|")
    for what in sorted(report.samples):
        before, after = report.grown(what)
        ratio = f"{after / before:.2f}" if before else "-"
        rows.append(f"| {what} | {before:.0f} | {after:.0f} | {ratio} |")
    return "\n".join(rows)
