"""What was acknowledged, what was seen, and whether the two agree.

Four numbers, in the words of Jepsen's queue checker:

    lost         acknowledged, and without a final result in the end
    duplicated   a result seen twice by one reader, or a submission that became two jobs
    changed      a result that differs from what it was before, or from what echo says
    unexpected   a result that nobody asked for, or an error that nobody caused
"""

import hashlib
import io
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from idefiq import ApiError, Client, IdefiqError, Job, Result
from tests import pictures
from tests.servers import PATIENCE_SECONDS
from workers import families
from workers.settings import EngineSettings

#: One reader asks no more often than this.
LOOK_SECONDS = 0.1


@dataclass
class Asked:
    """An item, and what echo says of it; None if its image cannot be read."""

    image: str
    prompt: str
    says: str | None

    @property
    def body(self) -> dict[str, object]:
        """As it is submitted."""
        return {"images": [self.image], "prompt": self.prompt}


@dataclass
class Verdict:
    """The four numbers, with a word on each case."""

    items: int = 0
    jobs: int = 0
    cases: dict[str, list[str]] = field(
        default_factory=lambda: {
            "lost": [], "duplicated": [], "changed": [], "unexpected": []
        }
    )  # fmt: skip

    def note(self, kind: str, case: str) -> None:
        """Count a case."""
        self.cases[kind].append(case)

    def add(self, other: "Verdict") -> None:
        """Take another verdict's cases too."""
        self.items += other.items
        self.jobs += other.jobs
        for kind, cases in other.cases.items():
            self.cases[kind] += cases

    @property
    def numbers(self) -> dict[str, int]:
        """The four."""
        return {kind: len(cases) for kind, cases in self.cases.items()}

    def __str__(self) -> str:
        """The numbers, and the first case of each that is not 0."""
        first = [cases[0] for cases in self.cases.values() if cases]
        return f"{self.items} items in {self.jobs} jobs: {self.numbers} {'; '.join(first)}"


class Pictures:
    """Images for the items, and what echo says of each."""

    def __init__(self, folder: Path, count: int = 8, name: str = "") -> None:
        self._echo = families.load(EngineSettings(model="echo"))
        self.paths: dict[str, Path] = {}
        folder.mkdir(parents=True, exist_ok=True)
        color = f"#{hashlib.sha256(name.encode()).hexdigest()[:6]}"
        for number in range(count):
            data = pictures.plain(color, size=(8 + number % 24, 8 + number // 24))
            path = folder / f"{number}.png"
            path.write_bytes(data)
            self.paths[f"blob:{hashlib.sha256(data).hexdigest()}"] = path
        broken = b"\x89PNG\r\n\x1a\n" + name.encode() + b"nothing of the kind" * 20
        (folder / "broken.png").write_bytes(broken)
        self.broken = f"blob:{hashlib.sha256(broken).hexdigest()}"
        self.paths[self.broken] = folder / "broken.png"

    def ask(self, references: Iterable[str], prompt: str) -> list[Asked]:
        """An item for each reference."""
        return [Asked(ref, f"{prompt} {n}", self._says(ref, f"{prompt} {n}"))
                for n, ref in enumerate(references)]  # fmt: skip

    def ask_all(self, prompt: str) -> list[Asked]:
        """An item for each image."""
        return self.ask(self.paths, prompt)

    def _says(self, reference: str, prompt: str) -> str | None:
        if reference == self.broken:
            return None
        with Image.open(io.BytesIO(self.paths[reference].read_bytes())) as image:
            request = {"kind": "caption", "images": [reference], "prompt": prompt}
            prepared = self._echo.prepare(request, [image.convert("RGB")])
        return self._echo.generate([prepared])[0].text


@dataclass
class Acknowledged:
    """A job whose submission was answered with 2xx."""

    job: Job
    asked: list[Asked]
    #: What readers have seen, by index.
    seen: dict[int, str | None] = field(default_factory=dict)
    cancelled: bool = False


class History:
    """Submits, reads along, and judges in the end."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.acknowledged: list[Acknowledged] = []
        self.verdict = Verdict()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def submit(self, client: Client, asked: list[Asked]) -> Acknowledged:
        """Submit until it is acknowledged, under one key, however often that takes."""
        key = uuid.uuid4().hex
        body = [item.body for item in asked]
        while True:
            try:
                job = client.submit(body, model="echo", idempotency_key=key)
                # As a client does whose answer was lost on the way.
                again = client.submit(body, model="echo", idempotency_key=key)
            except IdefiqError as error:
                self._expect_outage(error)
                continue
            if again.id != job.id:
                self.verdict.note("duplicated", f"{key} became {job.id} and {again.id}")
            made = Acknowledged(job, asked)
            self.acknowledged.append(made)
            return made

    def read_along(self, made: Acknowledged) -> None:
        """Follow a job's results in a thread, as a program that polls does."""
        thread = threading.Thread(target=self._read, args=(made,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def judge(self, seconds: float = PATIENCE_SECONDS) -> Verdict:
        """Wait until every job has finished, and compare."""
        deadline = time.monotonic() + seconds
        with Client(self.url) as client:
            for made in self.acknowledged:
                self._judge_job(client, made, deadline)
        self._stop.set()
        for thread in self._threads:
            thread.join(10)
        self.verdict.jobs += len(self.acknowledged)
        self.verdict.items += sum(len(made.asked) for made in self.acknowledged)
        return self.verdict

    def _judge_job(self, client: Client, made: Acknowledged, deadline: float) -> None:
        while not (job := client.job(made.job.id)).is_final:
            if time.monotonic() > deadline:
                open_items = job.counts.queued + job.counts.running
                for _ in range(open_items):
                    self.verdict.note("lost", f"{job.id} is {job.state}: {job.counts}")
                return
            time.sleep(LOOK_SECONDS)
        results = list(client.results(job))
        times = Counter(result.index for result in results)
        for index in range(len(made.asked)):
            if not times[index]:
                self.verdict.note("lost", f"{job.id} has no result {index}")
            if times[index] > 1:
                self.verdict.note("duplicated", f"{job.id} has {times[index]} results {index}")
        for result in results:
            self._judge_result(made, result)

    def _judge_result(self, made: Acknowledged, result: Result) -> None:
        where = f"item {result.index} of {made.job.id}"
        if not 0 <= result.index < len(made.asked):
            self.verdict.note("unexpected", f"{where} was never asked")
            return
        asked = made.asked[result.index]
        told = result.answer if result.state == "succeeded" else None
        if result.index in made.seen and made.seen[result.index] != told:
            self.verdict.note("changed", f"{where}: {made.seen[result.index]!r}, then {told!r}")
        if result.state == "cancelled" and made.cancelled:
            return
        if told != asked.says:
            kind = "changed" if told and asked.says else "unexpected"
            self.verdict.note(kind, f"{where}: {result.state} {told!r} {result.error}")

    def _read(self, made: Acknowledged) -> None:
        after = None
        with Client(self.url) as client:
            while not self._stop.is_set():
                try:
                    page = client.results_page(made.job.id, after)
                except IdefiqError as error:
                    self._expect_outage(error)
                    continue
                after = page.after
                for result in page.data:
                    if result.index in made.seen:
                        self.verdict.note(
                            "duplicated", f"{made.job.id} told {result.index} to a reader twice"
                        )
                    told = result.answer if result.state == "succeeded" else None
                    made.seen[result.index] = told
                if len(made.seen) == len(made.asked):
                    return
                self._stop.wait(LOOK_SECONDS)

    def _expect_outage(self, error: IdefiqError) -> None:
        """Whatever is down, a caller is told to come back, and nothing else."""
        if isinstance(error, ApiError) and error.status not in (429, 502, 503):
            self.verdict.note("unexpected", f"a caller was told {error.status}: {error}")
        time.sleep(LOOK_SECONDS)
