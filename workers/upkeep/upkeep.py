"""Upkeep, the maintenance worker: repeatable steps, each safe to run twice and in two processes.

spool  ──import pages──▶ items ─▶ seal         cancelled job ──settle pages──▶ finished
bucket ──list pages────▶ items ─▶ seal         batch ──window over──▶ cancelled
finished job ──write──▶ OWNER/results/JOB.jsonl, or a batch's two files       file ──▶ expired
"""

import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import orjson

from db import failpoints, logs
from db.blobs.store import BlobStore, results_key
from db.openai import batches, files
from db.openai.batch import Batch
from db.queue import imports, jobs, quotas, results, sessions, submissions, usage
from db.queue.jobs import Job
from db.queue.submissions import NewItem
from db.sql.database import Database
from db.tracing import work_span
from db.vocabulary.errors import NotFound, QuotaExceeded, RequestError, StorageError, TooLarge
from db.vocabulary.limits import OwnerLimits
from db.vocabulary.states import SourceApi
from workers.broker import INTAKE, Wakes, engine_queue
from workers.notices import Notices
from workers.settings import UpkeepSettings
from workers.upkeep.listing import Buckets
from workers.upkeep.outputs import SPOOL_BYTES, Outputs
from workers.upkeep.retention import Retention

#: Lines imported, items cancelled and results written in one transaction.
PAGE = 2_000
#: A page of an import ends early when its lines have so many bytes.
PAGE_BYTES = 8 * 2**20
#: Pages of one job imported before the next job has its turn.
IMPORT_PAGES = 25
#: Finished jobs whose results are written, and files that are deleted, in one look.
WRITE_JOBS = 50
REMOVE_FILES = 200
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
    ) -> None:
        self._database, self._store, self._buckets = database, store, buckets
        self._wakes, self._notices = wakes, notices
        self._outputs = Outputs(database, store)
        self.retention = Retention(database, store, settings)
        self._limits = limits
        self._fold_at = 0.0

    def run_once(self) -> bool:
        """Run every step that has something to do. Returns True if there may be more.

        What goes wrong with one job is logged and keeps none of the others from its step.
        """
        self._did(self._expire_jobs)
        with self._database.snapshot() as transaction:
            found: list[tuple[Callable[[Any], bool | None], Iterable[Any]]] = [
                (self.import_job, imports.to_import(transaction)),
                (self.list_source, imports.to_list(transaction)),
                (self.expire, batches.to_expire(transaction)),
                (self.settle, jobs.to_settle(transaction)),
                (self.finalize, batches.to_finalize(transaction)),
                (self.write_results, jobs.to_write(transaction, WRITE_JOBS)),
                (self._outputs.remove, files.expired(transaction, REMOVE_FILES)),
            ]
            steps = [(act, subject) for act, subjects in found for subject in subjects]
        failed = [step for step in steps if not self._did_for(*step)]
        with self._database.transaction() as transaction:
            sessions.delete_dead(transaction)
        if time.monotonic() > self._fold_at:
            self._did(self._count_usage)
            self._fold_at = time.monotonic() + FOLD_SECONDS
        removed = self._did(self.retention.run_once)
        return removed or len(failed) < len(steps)

    def _did_for(self, act: Callable[[Any], bool | None], subject: Any) -> bool:
        """Do something for a job, batch or file; see `_did`."""
        name = getattr(subject, "id", subject)
        context = getattr(subject, "traceparent", None)
        with logs.bound(subject=name), work_span(act.__name__, [context], subject=name):
            return self._did(partial(act, subject))

    def _did(self, step: Callable[[], bool | None]) -> bool:
        """Run a step. Returns True if it did something; False if it failed, or says so itself."""
        try:
            return step() is not False
        except (StorageError, QuotaExceeded) as error:
            log.warning("%s; retrying", error)
        except Exception:
            log.exception("a step of upkeep failed; retrying")
        return False

    def _count_usage(self) -> None:
        for step in (usage.fold, usage.sample_stored):
            with self._database.transaction() as transaction:
                step(transaction)

    def _expire_jobs(self) -> None:
        with self._database.transaction() as transaction:
            expired = jobs.expire(transaction)
        self._notices.changed(*expired)

    def import_job(self, job: Job) -> None:
        """Import some pages of a spooled submission; after the last, seal the job.

        A spool that is gone, or that the database will never take, ends its job as cancelled.
        """
        assert job.spool_key
        if job.sealed_at is None:
            try:
                needless = job.cancelled_at is not None and job.source_api != SourceApi.BATCH
                done = needless or self._import_pages(job)
            except (NotFound, RequestError, ValueError) as error:
                self._give_up(job, error)
                done = True
            if not done:
                return
            with self._database.transaction() as transaction:
                submissions.seal(transaction, job.id)
                if not jobs.get(transaction, job.owner_id, job.id).sealed_at:
                    return  # another upkeep is at one of its pages
            failpoints.trigger("sealed", job.id)
            self._tell_sealed(job)
        self._store.delete(job.spool_key)
        with self._database.transaction() as transaction:
            imports.clear_spool(transaction, job.id)

    def _import_pages(self, job: Job) -> bool:
        """Import up to IMPORT_PAGES pages, so that others have their turn. True at the end."""
        assert job.spool_key
        offset, end = job.spool_offset, job.spool_bytes
        with self._store.open(job.spool_key, end) as lines:
            if not end:
                end = sum(map(len, islice(lines, offset)))
            for page in islice(_pages(lines), IMPORT_PAGES):
                new_items = [_read_line(line) for line in page]
                end += sum(map(len, page))
                with self._database.transaction() as transaction:
                    imports.import_page(transaction, job, offset, new_items, end)
                offset += len(page)
                failpoints.trigger("imported", job.id)
            return next(lines, None) is None

    def _give_up(self, job: Job, error: Exception) -> None:
        with self._database.transaction() as transaction:
            given_up = imports.give_up_import(transaction, job)
        if given_up:
            log.error("job %s cannot be imported completely and is cancelled: %s", job.id, error)

    def _tell_sealed(self, job: Job) -> None:
        self._wakes.wake(INTAKE, engine_queue(job.model))
        self._notices.changed(job.id)

    def list_source(self, job: Job) -> None:
        """List some pages of a bucket as items; after the last, seal the job.

        A bucket that is gone, or may not be listed any more, ends its job as cancelled.
        """
        done = job.cancelled_at is not None or job.listed_at is not None
        try:
            for _ in range(IMPORT_PAGES):
                if done:
                    break
                page, last = self._buckets.images(str(job.source), job.source_after)
                with self._database.transaction() as transaction:
                    quotas.check_page(transaction, job, self._limits, len(page))
                    if not imports.list_page(transaction, job, page, last=last):
                        return  # somebody else lists it, or it was cancelled
                listed = job.total + len(page)
                job, done = replace(job, source_after=last, total=listed), last is None
        except (NotFound, TooLarge) as error:
            self._give_up(job, error)
            done = True
        if done:
            with self._database.transaction() as transaction:
                submissions.seal(transaction, job.id)
            self._tell_sealed(job)

    def expire(self, batch: Batch) -> None:
        """Expire a batch whose completion window is over: start no more items."""
        with self._database.transaction() as transaction:
            batches.expire(transaction, batch)
        log.info("batch %s has expired", batch.id)

    def finalize(self, batch: Batch) -> None:
        """Write a finished batch's files."""
        self._outputs.finalize(batch)
        self._notices.changed(str(batch.job_id))
        log.info("wrote the files of batch %s", batch.id)

    def settle(self, job_id: str) -> None:
        """Cancel the queued items of a cancelled job."""
        more = True
        while more:
            with self._database.transaction() as transaction:
                more = jobs.settle_cancelled(transaction, job_id, PAGE) == PAGE
            self._notices.changed(job_id)

    def write_results(self, job: Job) -> None:
        """Write a finished job's results as JSON Lines, in the order of the submission."""
        key = results_key(job.owner_id, job.id)
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as file:
            for page in results.pages_in_order(self._database, job.id, PAGE):
                file.write(b"".join(item.line() for item in page))
            file.seek(0)
            self._store.put(key, file)
        failpoints.trigger("collected", job.id)
        with self._database.transaction() as transaction:
            recorded = jobs.record_results(transaction, job.id, key)
        if not recorded:
            self._store.delete(key)
        self._notices.changed(job.id)
        log.info("wrote the results of job %s", job.id)


def _pages(lines: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Yield up to PAGE lines at a time, and fewer if they are long."""
    while first := next(lines, None):
        page, size = [first], len(first)
        while size < PAGE_BYTES and len(page) < PAGE and (line := next(lines, None)):
            page.append(line)
            size += len(line)
        yield page


def _read_line(line: bytes) -> NewItem:
    """Parse a line of the spool, which was checked and made canonical by the submission."""
    item = orjson.loads(line)
    return NewItem(item["request"], item["custom_id"])
