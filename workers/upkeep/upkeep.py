"""Upkeep, the maintenance worker: repeatable steps, each safe to run twice and in two processes.

Owners take turns, a page of one step each; see turns.py.

input file of a batch ──check slices──▶ spool and job, or a failed batch
spool  ──import pages──▶ items ─▶ seal         cancelled job ──settle pages──▶ finished
bucket ──list pages────▶ items ─▶ seal         batch ──window over──▶ cancelled
finished job ──write──▶ OWNER/results/JOB.jsonl, or a batch's two files       file ──▶ expired
"""

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from typing import Any

import orjson

from db import failpoints
from db.blobs.store import BlobStore, results_key
from db.openai import batches, files
from db.openai.batch import Batch
from db.queue import imports, jobs, quotas, results, sessions, submissions, usage, variants
from db.queue.jobs import Job
from db.queue.submissions import NewItem
from db.sql.database import Database
from db.vocabulary.errors import NotFound, RequestError, TooLarge
from db.vocabulary.limits import OwnerLimits
from db.vocabulary.states import SourceApi
from workers.broker import INTAKE, Wakes, engine_queue
from workers.notices import Notices
from workers.settings import UpkeepSettings
from workers.upkeep.batch_checks import BatchChecks
from workers.upkeep.listing import Buckets
from workers.upkeep.outputs import SPOOL_BYTES, Outputs, Uploads
from workers.upkeep.retention import Retention
from workers.upkeep.turns import STEP_COST, TURN_COST, Pages, Turns, UpkeepStep, did

#: Lines imported, items cancelled and results written in one transaction.
PAGE = TURN_COST
#: A page of an import ends early when its lines have so many bytes.
PAGE_BYTES = 8 * 2**20
#: Of an input file, what costs as much as an item: a short line.
LINE_BYTES = 300
#: Steps of each kind that one look finds of an owner.
OWNER_STEPS = 40
#: Time between two sums of the usage of past days, and two counts of stored bytes.
FOLD_SECONDS = 3_600.0

log = logging.getLogger(__name__)


class Upkeep:
    """Does the work of an upkeep worker; its resident loop calls `run_once`."""

    def __init__(  # noqa: PLR0913 - the parts of a worker, wired in __main__
        self,
        database: Database,
        store: BlobStore,
        buckets: Buckets,
        wakes: Wakes,
        notices: Notices,
        settings: UpkeepSettings,
        limits: OwnerLimits,
        stopping: threading.Event,
    ) -> None:
        self._database, self._store, self._buckets = database, store, buckets
        self._wakes, self._notices = wakes, notices
        self._uploads = Uploads(store)
        self._outputs = Outputs(database, store, self._uploads)
        self._batch_checks = BatchChecks(database, store, settings, limits)
        self.retention = Retention(database, store, settings)
        self._limits, self._model_changed_seconds = limits, settings.model_changed_seconds
        self._turns = Turns(self._look, stopping)
        self._fold_at = 0.0

    def run_once(self) -> bool:
        """Let every owner have turns. Returns True if there may be more to do.

        What goes wrong with one job is logged and keeps none of the others from its step.
        """
        did(self._expire_jobs)
        did(self._pause_changed)
        did(self.retention.delete_old)
        with self._database.transaction() as transaction:
            sessions.delete_dead(transaction)
        if time.monotonic() > self._fold_at:
            did(self._count_usage)
            self._fold_at = time.monotonic() + FOLD_SECONDS
        return self._turns.run()

    def close(self) -> None:
        """Wait for what is being put in the store."""
        self._uploads.close()

    def _look(self) -> list[UpkeepStep]:
        most = OWNER_STEPS
        with self._database.snapshot() as transaction:
            found: list[tuple[Callable[[Any], Pages | None], Iterable[Any]]] = [
                (self.check_batch, batches.to_check(transaction, most)),
                (self.import_job, imports.to_import(transaction, most)),
                (self.list_source, imports.to_list(transaction, most)),
                (self.expire, batches.to_expire(transaction, most)),
                (self.settle, jobs.to_settle(transaction, most)),
                (self.finalize, batches.to_finalize(transaction, most)),
                (self.write_results, results.to_write(transaction, most)),
                (self._outputs.remove, files.expired(transaction, most)),
            ]
            steps = [self._step(act, subject) for act, subjects in found for subject in subjects]
            return steps + self.retention.steps(transaction, most)

    def _step(
        self, act: Callable[[Any], Pages | None], subject: Job | Batch | files.File
    ) -> UpkeepStep:
        job = subject.job if isinstance(subject, Batch) else subject
        items = max(job.total, job.spool_lines) if isinstance(job, Job) else 0
        if act == self.check_batch:
            assert isinstance(subject, Batch)
            items = subject.input_bytes // LINE_BYTES
        return UpkeepStep(
            subject.owner_id,
            act.__name__,
            subject.id,
            partial(act, subject),
            cost=min(TURN_COST, STEP_COST + items),
            is_held=act in (self.check_batch, self.finalize, self.write_results),
            traceparent=getattr(job or subject, "traceparent", None),
        )

    def _count_usage(self) -> None:
        for step in (usage.fold, usage.sample_stored):
            with self._database.transaction() as transaction:
                step(transaction)

    def _expire_jobs(self) -> None:
        with self._database.transaction() as transaction:
            expired = jobs.expire(transaction)
        self._notices.changed(*expired)

    def _pause_changed(self) -> None:
        with self._database.transaction() as transaction:
            paused = variants.pause_changed(transaction, self._model_changed_seconds)
        self._notices.changed(*paused)

    def check_batch(self, batch: Batch) -> Pages:
        """Check the input file of a batch, and make it a job."""
        return self._batch_checks.check(batch)

    def import_job(self, job: Job) -> Pages:
        """Import a spooled submission; after the last page, seal the job.

        A spool that is gone, or that the database will never take, ends its job as cancelled.
        """
        assert job.spool_key
        if job.sealed_at is None:
            try:
                if job.cancelled_at is None or job.source_api == SourceApi.BATCH:
                    yield from self._import_pages(job)
            except (NotFound, RequestError, ValueError) as error:
                self._give_up(job, error)
            with self._database.transaction() as transaction:
                submissions.seal(transaction, job.id)
                if not jobs.get(transaction, job.owner_id, job.id).sealed_at:
                    return  # another upkeep is at one of its pages
            failpoints.trigger("sealed", job.id)
            self._tell_sealed(job)
        self._store.delete(job.spool_key)
        with self._database.transaction() as transaction:
            imports.clear_spool(transaction, job.id)

    def _import_pages(self, job: Job) -> Pages:
        assert job.spool_key
        offset, end = job.spool_offset, job.spool_bytes
        with self._store.open(job.spool_key, end) as stream:
            lines: Iterator[bytes] = iter(stream)
            if not end:
                end = sum(map(len, islice(lines, offset)))
            while page := _page(lines):
                new_items = [_read_line(line) for line in page]
                end += sum(map(len, page))
                with self._database.transaction() as transaction:
                    imports.import_page(transaction, job, offset, new_items, end)
                offset += len(page)
                failpoints.trigger("imported", job.id)
                following = next(lines, None)
                if following is None:
                    return
                lines = chain([following], lines)
                yield None

    def _give_up(self, job: Job, error: Exception) -> None:
        with self._database.transaction() as transaction:
            given_up = imports.give_up_import(transaction, job)
        if given_up:
            log.error("job %s cannot be imported completely and is cancelled: %s", job.id, error)

    def _tell_sealed(self, job: Job) -> None:
        self._wakes.wake(INTAKE, engine_queue(job.model))
        self._notices.changed(job.id)

    def list_source(self, job: Job) -> Pages:
        """List a bucket as items; after the last page, seal the job.

        A bucket that is gone, or may not be listed any more, ends its job as cancelled.
        """
        done = job.cancelled_at is not None or job.listed_at is not None
        try:
            while not done:
                page, last = self._buckets.images(str(job.source), job.source_after)
                with self._database.transaction() as transaction:
                    quotas.check_page(transaction, job, self._limits, len(page))
                    if not imports.list_page(transaction, job, page, last=last):
                        return  # somebody else lists it, or it was cancelled
                listed = job.total + len(page)
                job, done = replace(job, source_after=last, total=listed), last is None
                if not done:
                    yield None
        except (NotFound, TooLarge) as error:
            self._give_up(job, error)
        with self._database.transaction() as transaction:
            submissions.seal(transaction, job.id)
        self._tell_sealed(job)

    def expire(self, batch: Batch) -> None:
        """Expire a batch whose completion window is over: start no more items."""
        with self._database.transaction() as transaction:
            batches.expire(transaction, batch)
        log.info("batch %s has expired", batch.id)

    def finalize(self, batch: Batch) -> Pages:
        """Write a finished batch's files."""
        yield from self._outputs.finalize(batch)
        self._notices.changed(str(batch.job_id))
        log.info("wrote the files of batch %s", batch.id)

    def settle(self, job: Job) -> Pages:
        """Cancel the queued items of a cancelled job."""
        more = True
        while more:
            with self._database.transaction() as transaction:
                more = jobs.settle_cancelled(transaction, job.id, PAGE) == PAGE
            self._notices.changed(job.id)
            if more:
                yield None

    def write_results(self, job: Job) -> Pages:
        """Write a finished job's results as JSON Lines, in the order of the submission."""
        key = results_key(job.owner_id, job.id)
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as file:
            for page in results.pages_in_order(self._database, job.id, PAGE):
                file.write(b"".join(item.line() for item in page))
                if len(page) == PAGE:
                    yield None
            yield from self._uploads.put(key, file)
        failpoints.trigger("collected", job.id)
        with self._database.transaction() as transaction:
            recorded = results.record_results(transaction, job.id, key)
        if not recorded:
            self._store.delete(key)
        self._notices.changed(job.id)
        log.info("wrote the results of job %s", job.id)


def _page(lines: Iterator[bytes]) -> list[bytes]:
    """Return the next PAGE lines, and fewer if they are long."""
    page, size = list[bytes](), 0
    while size < PAGE_BYTES and len(page) < PAGE and (line := next(lines, None)):
        page.append(line)
        size += len(line)
    return page


def _read_line(line: bytes) -> NewItem:
    """Parse a line of the spool, which was checked and made canonical by the submission."""
    item = orjson.loads(line)
    return NewItem(item["request"], item["custom_id"])
