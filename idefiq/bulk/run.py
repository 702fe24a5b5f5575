"""A run: note what is there, send it in chunks, take the answers, write them.

    scan ─▶ ┌ send a chunk: upload, write down, submit ┐
            └ take what the open jobs have answered    ┘ until all is done ─▶ write

A few chunks are open at once, so that the service works while the next files go up.
"""

import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from idefiq import protocol
from idefiq.bulk import outputs, sources
from idefiq.bulk.ask import Plan
from idefiq.bulk.manifest import Chunk, Image, Manifest
from idefiq.bulk.sources import Reader, Record
from idefiq.client import Client
from idefiq.types import ApiError, IdefiqError, Job

#: Images of one job, and jobs open at once.
CHUNK_IMAGES, OPEN_CHUNKS = 500, 4
#: Records noted in one transaction.
SCAN_RECORDS = 1_000
#: How long one look at an open job may take when there is nothing else to do.
LOOK_SECONDS = 1
#: Finished jobs from which the speed of a model is estimated.
RECENT_JOBS = 20

#: Called with images by state and the rate at which the service answers, if it is known.
Report = Callable[[dict[str, int], float | None], None]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run came to; `failures` are those that are left."""

    done: int
    failed: int
    skipped: int
    left: int
    seconds: float
    jobs: list[str]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {name: getattr(self, name) for name in self.__slots__}


class Run:
    """Carries out a plan.

    Args:
        manifest: Where it is written down.
        report: Told after every step.
    """

    def __init__(self, client: Client, plan: Plan, manifest: Manifest, report: Report) -> None:
        self._client, self._plan, self._manifest, self._report = client, plan, manifest, report
        self._rates: dict[str, float] = {}
        self._began = time.monotonic()

    def scan(self) -> None:
        """Note every image of the sources, and which of them have a text already.

        Raises:
            IdefiqError: A source does not exist or is no source.
        """
        sources.check(self._plan.sources)
        buckets = [word for word in self._plan.sources if sources.is_bucket(word)]
        for bucket in buckets:
            self._manifest.assign_bucket(bucket if bucket.endswith("/") else f"{bucket}/")
        words = [word for word in self._plan.sources if word not in buckets]
        found: Iterator[Record] = sources.find(
            words, recursive=self._plan.recursive, image_column=self._plan.image_column
        )
        if self._plan.limit:
            found = islice(found, self._plan.limit)
        while some := list(islice(found, SCAN_RECORDS)):
            self._note(some)
            self._report(self._manifest.counts(), None)

    def _note(self, records: Sequence[Record]) -> None:
        plan = self._plan
        first = [record for record in records if not self._manifest.knows(record.key)]
        before = {record.key: outputs.text_before(plan, record.key) for record in first}
        self._manifest.add([(record, before.get(record.key)) for record in records])
        if plan.existing == "skip":
            self._manifest.skip(key for key, text in before.items() if text is not None)

    def work(self) -> None:
        """Send what is new and take what is answered, until all is done."""
        while True:
            opened = self._manifest.open_chunks()
            for chunk in opened:
                if chunk.job_id is None:
                    self._submit(chunk)
            sent = len(opened) < OPEN_CHUNKS and self._send()
            opened = self._manifest.open_chunks()
            for number, chunk in enumerate(opened):
                self._take(chunk, wait=not sent and number == 0)
            self._write_texts()
            self._report(self._manifest.counts(), self._rate())
            if not opened and not sent:
                return

    def _send(self) -> bool:
        """Upload and submit the next chunk. False: there is nothing new."""
        images = list(islice(self._manifest.images("new"), CHUNK_IMAGES))
        if not images:
            return False
        with tempfile.TemporaryDirectory(prefix="idefiq-") as folder:
            referenced = self._refer(images, Reader(Path(folder)))
        if referenced:
            self._submit(self._manifest.assign(referenced))
        return True

    def _refer(self, images: Sequence[Image], reader: Reader) -> list[tuple[Image, str]]:
        """References of images that can be sent; the others fail, each for itself."""
        referenced: list[tuple[Image, str]] = []
        files: list[tuple[Image, Path]] = []
        for image in images:
            try:
                self._plan.ask.own(image.key, image.columns)
                if "reference" in image.location:
                    referenced.append((image, image.location["reference"]))
                else:
                    files.append((image, reader.path(image.location)))
            except (OSError, IdefiqError) as error:
                self._fail(image, error)
        try:
            references = self._client.upload([path for _, path in files])
            uploaded = zip((image for image, _ in files), references, strict=True)
        except (OSError, ApiError):
            uploaded = zip(*self._upload_each(files), strict=True)
        return sorted(chain(referenced, uploaded), key=lambda pair: pair[0].number)

    def _upload_each(self, files: Sequence[tuple[Image, Path]]) -> tuple[list[Image], list[str]]:
        """One by one, so that the bad one alone is left out."""
        images: list[Image] = []
        references: list[str] = []
        for image, path in files:
            try:
                references += self._client.upload([path])
                images.append(image)
            except (OSError, ApiError) as error:
                if isinstance(error, ApiError) and error.status in (401, 403):
                    raise
                self._fail(image, error)
        return images, references

    def _fail(self, image: Image, error: Exception) -> None:
        code = error.code if isinstance(error, ApiError) else "unreadable"
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        self._manifest.fail(image, said, code)

    def _submit(self, chunk: Chunk) -> None:
        """Submit a chunk under its own key: sent twice, it is one job."""
        plan = self._plan
        items = chunk.source or self._manifest.items(chunk, plan.ask)
        try:
            job = self._client.submit(
                items,
                model=plan.model,
                defaults=plan.ask.defaults(),
                name=f"command line: {' '.join(plan.sources)}"[:200],
                idempotency_key=chunk.key,
            )
        except ApiError as error:
            if 400 <= error.status < 500:  # nothing was made of it
                self._manifest.dissolve(chunk, *_refused_image(error))
            if _refused_image(error)[0] is None:
                raise
        else:
            self._manifest.submitted(chunk, job.id)

    def _take(self, chunk: Chunk, *, wait: bool) -> None:
        """Take what a job has answered; wait a little if there is nothing else to do."""
        assert chunk.job_id
        try:
            job = self._client.job(chunk.job_id, wait_seconds=LOOK_SECONDS if wait else 0)
        except ApiError as error:
            if error.status != 404:
                raise
            raise IdefiqError(
                f"the service knows nothing of {chunk.job_id}, which this run sent: is it another"
                " service? --restart asks for everything again"
            ) from error
        if job.items_per_second:
            self._rates[job.id] = job.items_per_second
        cursor = chunk.cursor
        while True:
            page = self._client.results_page(job, cursor)
            cursor = page.after
            self._manifest.take(chunk, page.data, cursor)
            if len(page.data) < protocol.RESULTS:
                break
        if job.is_final:
            self._manifest.end(chunk)
            if chunk.source and job.state == "cancelled":
                why = "the service could not list it, or the job was cancelled"
                missing = Record(chunk.source, {}, {"file": chunk.source}, error=why)
                self._manifest.add([(missing, None)])

    def _rate(self) -> float | None:
        return statistics.median(self._rates.values()) if self._rates else None

    def _write_texts(self) -> None:
        if not outputs.writes_texts(self._plan):
            return
        images = list(self._manifest.unwritten())
        for image in images:
            outputs.write_text(self._plan, image)
        self._manifest.written(images)

    def write(self) -> None:
        """Write the output from everything that has ended so far."""
        self._write_texts()
        outputs.write(self._plan, self._manifest.images("done", "failed"))

    def summary(self) -> Summary:
        """How it stands."""
        counts = self._manifest.counts()
        return Summary(
            done=counts.get("done", 0),
            failed=counts.get("failed", 0),
            skipped=counts.get("skipped", 0),
            left=counts.get("new", 0) + counts.get("sent", 0),
            seconds=round(time.monotonic() - self._began, 3),
            jobs=self._manifest.job_ids(),
        )


def _refused_image(error: ApiError) -> tuple[int | None, str]:
    """Which item's image the service refuses to look for, and why."""
    field = str(error.errors[0].get("field", "")) if error.errors else ""
    matched = re.match(r"items\.(\d+)\.images\b", field)
    return (int(matched[1]), str(error)) if matched else (None, "")


def expected_rate(client: Client, model: str | None) -> float | None:
    """Items a second that recent jobs of a model had, if there were any."""
    recent: list[Job] = list(islice(client.jobs(), RECENT_JOBS))
    rates = [
        job.items_per_second
        for job in recent
        if job.items_per_second and model in (None, job.model) and job.counts.total > 1
    ]
    return statistics.median(rates) if rates else None
