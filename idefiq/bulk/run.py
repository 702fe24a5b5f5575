"""A run: scan sources, send images in chunks, take answers, write the output.

Longer than 300 lines because sending, taking and writing are one loop that stops and resumes at any
step.

    scan ─▶ ┌ send a chunk: upload, write down, submit ┐
            └ take what the open jobs have answered    ┘ until all is done ─▶ write

A few chunks are open at once, so that the service works while the next files go up.
"""

import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from idefiq import protocol
from idefiq.bulk import sources
from idefiq.bulk.ask import Plan
from idefiq.bulk.images import Chunk, Image
from idefiq.bulk.manifest import Manifest
from idefiq.bulk.outputs import Output
from idefiq.bulk.reader import Reader
from idefiq.bulk.records import Record, safe
from idefiq.client import Client
from idefiq.errors import ApiError, IdefiqError
from idefiq.types import Item, Job, Result

#: Images of one job, and jobs open at once.
CHUNK_IMAGES, OPEN_CHUNKS = 500, 4
#: Records noted in one transaction.
SCAN_RECORDS = 1_000
#: How long one look at an open job may take when there is nothing else to do.
JOB_LOOK_SECONDS = 1
#: Finished jobs from which the speed of a model is estimated.
RECENT_JOBS = 20

#: Called with images by state and the rate at which the service answers, if it is known.
ReportProgress = Callable[[dict[str, int], float | None], None]


@dataclass(frozen=True, slots=True)
class Summary:
    """Outcome of a run.

    Attributes:
        kept: Answered images that were retried and failed; they keep their earlier answers.
        answers_with_issues: Of the jobs that have ended while this run waited, as the next three.
        issues: Answers by issue.
        cost: By the prices of the service; None if it has none.
    """

    done: int
    failed: int
    skipped: int
    left: int
    seconds: float
    jobs: list[str]
    kept: int = 0
    answers_with_issues: int = 0
    issues: dict[str, int] = field(default_factory=dict)
    cost: float | None = None
    currency: str = ""


class Run:
    """Carries out a plan.

    Args:
        output: Of the plan.
        manifest: Where it is written down.
        report: Told after every step.
    """

    def __init__(
        self, client: Client, output: Output, manifest: Manifest, report: ReportProgress
    ) -> None:
        self._client, self._output, self._manifest = client, output, manifest
        self._plan: Plan = output.plan
        self._report = report
        self._rates: dict[str, float] = {}
        self._ended: dict[str, Job] = {}
        self._began = time.monotonic()

    @property
    def _skip(self) -> bool:
        return self._plan.existing == "skip"

    def scan(self) -> None:
        """Record every image of the sources, and which of them have a text already.

        Raises:
            IdefiqError: A source does not exist or is no source.
        """
        words = [word for word in self._plan.sources if not sources.is_bucket(word)]
        found: Iterator[Record] = sources.find(
            words, recursive=self._plan.recursive, image_column=self._plan.image_column
        )
        if self._plan.limit:
            found = islice(found, self._plan.limit)
        self._manifest.images.begin_scan(skip=self._skip)
        while some := list(islice(found, SCAN_RECORDS)):
            self._manifest.images.add(
                [self._placed(record) for record in some],
                self._output.text_before,
                skip=self._skip,
            )
            self._report(self._manifest.images.counts(), None)

    def _placed(self, record: Record) -> tuple[Record, Sequence[Path]]:
        if record.error is None and (misfit := self._output.misfit(record)):
            record = replace(record, error=misfit)
        return record, self._output.texts(record)

    def work(self) -> None:
        """Send new images and take answers until all are finished."""
        for bucket in filter(sources.is_bucket, self._plan.sources):
            self._manifest.chunks.assign_bucket(bucket, self._said())
        while True:
            opened = self._manifest.chunks.unfinished()
            for chunk in opened:
                if chunk.job_id is None:
                    self._submit(chunk)
            sent = len(opened) < OPEN_CHUNKS and self._send()
            opened = self._manifest.chunks.unfinished()
            for number, chunk in enumerate(opened):
                self.take(chunk, wait=not sent and number == 0)
            self._write_texts()
            self._report(self._manifest.images.counts(), self._rate())
            if not opened and not sent:
                return

    # ---- sending --------------------------------------------------------------------

    def _said(self) -> dict[str, Any]:
        """Fields of every submission of this run besides its items."""
        plan = self._plan
        return {
            "model": plan.model,
            "defaults": plan.ask.defaults(),
            "name": f"command line: {' '.join(plan.sources)}"[:200],
            **({} if plan.pause_on_issues is None else {"pause_on_issues": plan.pause_on_issues}),
            **({"model_changed": plan.model_changed} if plan.model_changed else {}),
        }

    def _send(self) -> bool:
        """Upload and submit the next chunk. Returns False if nothing is new."""
        images = list(islice(self._manifest.images.in_state("new"), CHUNK_IMAGES))
        if not images:
            return False
        with tempfile.TemporaryDirectory(prefix="idefiq-") as folder:
            asked = self._ask(images, Reader(Path(folder)))
        if asked:
            self._submit(self._manifest.chunks.assign(asked, self._said()))
        return True

    def _ask(self, images: Sequence[Image], reader: Reader) -> list[tuple[Image, Item]]:
        """Items of images that can be sent; the others fail, each by itself."""
        own: dict[int, Item] = {}
        references: dict[int, str] = {}
        files: list[tuple[Image, Path]] = []
        for image in images:
            try:
                own[image.number] = self._plan.ask.own(image.key, image.columns)
                if "reference" in image.location:
                    references[image.number] = image.location["reference"]
                else:
                    files.append((image, reader.path(image.location)))
            except (OSError, IdefiqError) as error:
                self._fail(image, error)
        references |= self._upload(files)
        return [
            (
                image,
                {
                    **own[image.number],
                    "images": [references[image.number]],
                    "custom_id": image.key[-200:],
                },
            )
            for image in images
            if image.number in references
        ]

    def _upload(self, files: Sequence[tuple[Image, Path]]) -> dict[int, str]:
        """References of what could be uploaded, by image number."""
        try:
            sent = self._client.upload([path for _, path in files])
            return {
                image.number: reference for (image, _), reference in zip(files, sent, strict=True)
            }
        except (OSError, ApiError) as error:
            if not _is_of_a_file(error):
                raise
        references = {}
        for image, path in files:  # one by one, so that the bad one alone is left out
            try:
                [references[image.number]] = self._client.upload([path])
            except (OSError, ApiError) as error:
                if not _is_of_a_file(error):
                    raise
                self._fail(image, error)
        return references

    def _fail(self, image: Image, error: Exception) -> None:
        code = error.code if isinstance(error, ApiError) else "unreadable"
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        self._manifest.images.fail(image, reason, code)

    def _submit(self, chunk: Chunk) -> None:
        """Submit a chunk under its own key: sent twice, it is one job."""
        items = chunk.source or self._manifest.chunks.items(chunk)
        try:
            job = self._client.submit(items, **chunk.submission, idempotency_key=chunk.key)
        except ApiError as error:
            place = self._refused(error)
            if place is not None:
                self._manifest.chunks.dissolve(chunk, place, str(error))
                return
            if error.status in (400, 403, 404, 413, 422) and error.code != "idempotency_conflict":
                # No job was made of the chunk, and none will be.
                self._manifest.chunks.dissolve(chunk)
            raise
        self._manifest.chunks.submitted(chunk, job.id)

    def _refused(self, error: ApiError) -> int | None:
        """Index of the item that caused the rejection, or None."""
        fields = "images|prompt|question|messages" if self._plan.ask.is_own else "images"
        field = str(error.errors[0].get("field", "")) if error.errors else ""
        matched = re.match(rf"items\.(\d+)\.({fields})\b", field)
        return int(matched[1]) if matched and error.status == 422 else None

    # ---- taking ---------------------------------------------------------------------

    def take(self, chunk: Chunk, *, wait: bool) -> None:
        """Take a job's answers so far; wait a little if there is nothing else to do."""
        assert chunk.job_id
        asked = time.monotonic()
        try:
            job = self._client.job(chunk.job_id, wait_seconds=JOB_LOOK_SECONDS if wait else 0)
        except ApiError as error:
            if error.status != 404:
                raise
            raise IdefiqError(
                f"the service knows nothing of {chunk.job_id}, which this run sent: is it another"
                " service? --fresh asks for everything again"
            ) from error
        if job.items_per_second:
            self._rates[job.id] = job.items_per_second
        self._take_results(chunk, job)
        if job.state == "paused" and job.pause_reason in _PAUSED_ITSELF:
            raise IdefiqError(_PAUSED_ITSELF[job.pause_reason](job))
        if job.is_final:
            self._ended[job.id] = job
            self._manifest.chunks.end(chunk)
            if chunk.source and job.state == "cancelled":
                why = "the service could not list it, or the job was cancelled"
                self._manifest.chunks.fail_bucket(chunk, why)
        elif wait and time.monotonic() - asked < protocol.LOOK_SECONDS:
            time.sleep(protocol.LOOK_SECONDS)  # a service that grants no wait

    def _take_results(self, chunk: Chunk, job: Job) -> None:
        cursor = chunk.cursor
        while True:
            page = self._client.results_page(job, cursor)
            cursor = page.after
            if chunk.source:
                found = [(result.index, self._listed(chunk.source, result)) for result in page.data]
                before = self._output.text_before
                self._manifest.chunks.hear_of(chunk, found, before, skip=self._skip)
            self._manifest.chunks.take(chunk, page.data, cursor)
            if len(page.data) < protocol.RESULTS:
                return

    def _listed(self, source: str, result: Result) -> tuple[Record, Sequence[Path]]:
        """Turn a result of a bucket into a record, which is unknown before its answer."""
        name = str(result.custom_id)
        key = f"{source}{name}"
        return self._placed(
            Record(key, {"reference": key}, {"file": key}, place=safe(name), source=source)
        )

    def _rate(self) -> float | None:
        return statistics.median(self._rates.values()) if self._rates else None

    # ---- writing --------------------------------------------------------------------

    def _write_texts(self) -> None:
        if not self._output.writes_texts:
            return
        while images := self._manifest.images.unwritten():
            for image in images:
                self._write_text(image)
            self._manifest.images.written(images)

    def _write_text(self, image: Image) -> None:
        try:
            self._output.write_text(image, self._manifest.images.will_write)
        except IdefiqError as error:  # somebody has changed it since it was first looked at
            self._manifest.images.fail(image, str(error), "unreadable")

    def write(self) -> None:
        """Write the output from everything that has finished so far."""
        if self._output.writes_texts:
            for image in self._manifest.images.in_state("done"):
                self._write_text(image)
            return
        ended = self._manifest.images.ended()
        self._manifest.run.wrote_shards(self._output.write(ended, self._manifest.run.shards()))

    def summary(self) -> Summary:
        """Return the counts so far."""
        counts = self._manifest.images.counts()
        ended = list(self._ended.values())
        issues = Counter[str]()
        for job in ended:
            issues.update(job.issues)
        costs = [job.usage.cost for job in ended if job.usage.cost is not None]
        return Summary(
            done=counts.get("done", 0),
            failed=counts.get("failed", 0),
            skipped=counts.get("skipped", 0),
            left=counts.get("new", 0) + counts.get("sent", 0),
            seconds=round(time.monotonic() - self._began, 3),
            jobs=self._manifest.chunks.job_ids(),
            kept=self._manifest.images.kept(),
            answers_with_issues=sum(job.answers_with_issues for job in ended),
            issues=dict(sorted(issues.items())),
            cost=sum(costs) if costs else None,
            currency=ended[0].usage.currency if ended else "",
        )


def _paused_by_issues(job: Job) -> str:
    listed = ", ".join(f"{code} {count}" for code, count in job.issues.items())
    return (
        f"{job.id} has paused itself: {job.answers_with_issues} of {job.counts.succeeded} answers"
        f" have issues ({listed}). See them with `idefiq results {job.id} --issue any`; go on with"
        f" `idefiq resume {job.id}` and the same command, or stop with `idefiq cancel {job.id}`"
    )


def _paused_by_change(job: Job) -> str:
    return (
        f"{job.id} has paused itself after {job.counts.succeeded} answers: the service serves"
        f" another variant of {job.model} now (checkpoint, adapter, template or options). Go on"
        f" with `idefiq resume {job.id}` and the same command, or stop with `idefiq cancel"
        f" {job.id}`; --model-changed continue never pauses"
    )


_PAUSED_ITSELF = {"issues": _paused_by_issues, "model_changed": _paused_by_change}


def _is_of_a_file(error: OSError | ApiError) -> bool:
    """True if an error concerns a file, and not the service or the connection."""
    return isinstance(error, OSError) or error.status in (400, 413, 415, 422)


@dataclass(frozen=True, slots=True)
class Expected:
    """What recent jobs of a model let expect: rate, and cost of an item; None if unknown."""

    items_per_second: float | None = None
    cost: float | None = None
    currency: str = ""


def expected(client: Client, model: str | None) -> Expected:
    """Estimate from the recent jobs of a model."""
    recent = [job for job in islice(client.jobs(model=model), RECENT_JOBS) if job.counts.total > 1]
    rates = [job.items_per_second for job in recent if job.items_per_second]
    costs = [
        job.usage.cost / job.counts.succeeded
        for job in recent
        if job.usage.cost is not None and job.counts.succeeded
    ]
    return Expected(
        statistics.median(rates) if rates else None,
        statistics.median(costs) if costs else None,
        recent[0].usage.currency if recent else "",
    )
