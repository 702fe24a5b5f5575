"""Upkeep: repeatable steps on rows, each safe to run twice and at two places.

spool ──import pages──▶ items ─▶ seal          cancelled job ──settle pages──▶ finished
finished job ──write──▶ OWNER/results/JOB.jsonl ─▶ its key in the job
"""

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice

from db import jobs, results, sessions
from db.blobs import BlobStore, results_key
from db.database import Database
from db.jobs import Job, NewItem
from db.results import Item
from workers.broker import INTAKE, Wakes, engine_queue

#: Lines imported, items cancelled and results written in one transaction.
PAGE = 2_000
#: Results are kept in memory up to this size while they are written, then in a file.
SPOOL_BYTES = 8 * 2**20
#: Finished jobs whose results are written in one look.
WRITE_JOBS = 50

log = logging.getLogger(__name__)


class Upkeep:
    """Does the work of an upkeep worker; `look` is what its resident loop runs."""

    def __init__(self, database: Database, store: BlobStore, wakes: Wakes) -> None:
        self._database, self._store, self._wakes = database, store, wakes

    def look(self) -> bool:
        """Run every step that has something to do. Returns whether there may be more."""
        with self._database.snapshot() as transaction:
            imports = jobs.to_import(transaction)
            cancelled = jobs.to_settle(transaction)
            unwritten = jobs.to_write(transaction, WRITE_JOBS)
        for job in imports:
            self.import_job(job)
        for job_id in cancelled:
            self.settle(job_id)
        for job in unwritten:
            self.write_results(job)
        with self._database.transaction() as transaction:
            sessions.forget_dead(transaction)
        return bool(imports or cancelled or unwritten)

    def import_job(self, job: Job) -> None:
        """Import what is left of a spooled submission, page by page, and seal the job."""
        if job.spool_key and not job.cancelled_at:
            with self._store.open(job.spool_key) as spool:
                offset = job.spool_offset
                lines = islice(spool, offset, None)
                while page := [_read_line(line) for line in islice(lines, PAGE)]:
                    with self._database.transaction() as transaction:
                        jobs.import_page(transaction, job, offset, page)
                    offset += len(page)
        with self._database.transaction() as transaction:
            jobs.seal(transaction, job.id)
        if job.spool_key:
            self._store.delete(job.spool_key)
        self._wakes.wake(INTAKE, engine_queue(job.model))

    def settle(self, job_id: str) -> None:
        """Cancel the queued items of a cancelled job."""
        more = True
        while more:
            with self._database.transaction() as transaction:
                more = jobs.settle_cancelled(transaction, job_id, PAGE) == PAGE

    def write_results(self, job: Job) -> None:
        """Write a finished job's items, in the order of the submission, as JSON Lines."""
        key = results_key(job.owner_id, job.id)
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as file:
            for page in self._pages(job.id):
                file.write(b"".join(item.line() for item in page))
            file.seek(0)
            self._store.put(key, file)
        with self._database.transaction() as transaction:
            jobs.record_results(transaction, job.id, key)
        log.info("wrote the results of job %s", job.id)

    def _pages(self, job_id: str) -> Iterator[Sequence[Item]]:
        first = 0
        while True:
            with self._database.snapshot() as transaction:
                page = results.in_order(transaction, job_id, first=first, limit=PAGE)
            if not page:
                return
            yield page
            first = page[-1].ordinal + 1


def _read_line(line: bytes) -> NewItem:
    """A line of the spool, which was checked and made canonical when it was submitted."""
    item = json.loads(line)
    return NewItem(item["request"], item["custom_id"])
