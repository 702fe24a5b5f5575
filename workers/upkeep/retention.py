"""Retention and garbage collection, by the rules of db/queue/retention.py."""

import logging
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import groupby

from db import verification
from db.blobs.store import BlobStore, image_key, results_key
from db.images import collection, known_images
from db.queue import retention
from db.queue.jobs import Job
from db.sql.database import Database, Transaction
from db.vocabulary.states import SourceApi
from db.webhooks import outbox
from workers.settings import UpkeepSettings
from workers.upkeep.turns import STEP_COST, TURN_COST, Pages, UpkeepStep

DAY_SECONDS = 86_400.0
#: Rows of one transaction.
PURGED_ROWS = 2_000
#: Images of an owner that are collected in a turn.
IMAGES = 500
#: Between two looks for what has become too old.
RUN_SECONDS = 300.0
#: Deliveries that are over are kept so long.
KEEP_DELIVERIES_SECONDS = 30 * DAY_SECONDS

log = logging.getLogger(__name__)


class Retention:
    """Deletes and collects; each step is safe to run twice and in two processes."""

    def __init__(self, database: Database, store: BlobStore, settings: UpkeepSettings) -> None:
        self._database, self._store = database, store
        self._keep_jobs = settings.keep_jobs_days * DAY_SECONDS
        self._keep_chats = settings.keep_chats_days * DAY_SECONDS
        self._keep_images = settings.keep_images_days * DAY_SECONDS
        self._every_seconds = settings.collect_hours * 3_600
        self._next_run = self._mark_at = 0.0
        #: Not at the first start: listing a large bucket takes long, and processes start often.
        self._sweep_at = time.monotonic() + self._every_seconds

    def delete_old(self) -> None:
        """Delete what is too old, from time to time."""
        if time.monotonic() < self._next_run:
            return
        with self._database.transaction() as transaction:
            outbox.delete_old(transaction, KEEP_DELIVERIES_SECONDS)
            deleted = retention.soft_delete_old_jobs(
                transaction,
                keep_seconds=self._keep_jobs,
                keep_chat_seconds=self._keep_chats,
                limit=PURGED_ROWS,
            )
        if deleted < PURGED_ROWS:
            self._next_run = time.monotonic() + RUN_SECONDS

    def steps(self, transaction: Transaction, most: int) -> list[UpkeepStep]:
        """Return what there is to purge and to collect, at most so much of each owner."""
        steps = [
            UpkeepStep(
                job.owner_id,
                "purge",
                job.id,
                partial(self.purge, job),
                cost=min(TURN_COST, STEP_COST + job.total),
            )
            for job in retention.deleted_jobs(transaction, most)
        ]
        for owner_id, marked in groupby(
            collection.marked_images(transaction, IMAGES), key=lambda image: image[0]
        ):
            digests = [digest for _, digest in marked]
            steps.append(
                UpkeepStep(owner_id, "collect", "", partial(self.collect, owner_id, digests))
            )
        if self._keep_images and time.monotonic() >= self._mark_at:
            steps.append(UpkeepStep(0, "mark_unused", "", self.mark_unused, is_held=True))
        if time.monotonic() >= self._sweep_at:
            steps.append(UpkeepStep(0, "sweep", "", self.sweep, is_held=True))
        return steps

    def purge(self, job: Job) -> Pages:
        """Purge the rows of a deleted job, then the job."""
        removed = PURGED_ROWS
        while removed == PURGED_ROWS:
            with self._database.transaction() as transaction:
                removed = retention.purge_items(transaction, job.id, PURGED_ROWS)
            if removed == PURGED_ROWS:
                yield None
        if job.source_api == SourceApi.JOB:
            self._store.delete(results_key(job.owner_id, job.id))
        if job.spool_key:
            self._store.delete(job.spool_key)
        with self._database.transaction() as transaction:
            retention.purge_job(transaction, job.id)

    def mark_unused(self) -> Pages:
        """Mark images that were not used for long and have no reference."""
        try:
            yield from self._mark_unused()
        finally:
            self._mark_at = time.monotonic() + self._every_seconds

    def _mark_unused(self) -> Pages:
        with self._database.snapshot() as transaction:
            owners = collection.owners_with_unused(transaction, self._keep_images)
        marked = 0
        # In a file when it grows: there may be more images than fit into memory.
        with closing(sqlite3.connect("", isolation_level=None)) as used:
            used.execute(
                "CREATE TABLE used (owner INTEGER, digest TEXT, PRIMARY KEY (owner, digest))"
                " WITHOUT ROWID"
            )
            used.execute("BEGIN")
            if owners:
                yield from self._note_used(used)
            for owner_id in owners:
                for some in self._mark_unused_of(owner_id, used):
                    marked += some
                    yield None
        if marked:
            log.info("%d unused images marked for garbage collection", marked)

    def sweep(self) -> Pages:
        """Delete what submissions and uploads left behind that ended before they had a row."""
        swept = 0
        try:
            for page in self._store.pages():
                found = verification.unknown(self._database, page)
                swept += sum(1 for _ in verification.sweep(self._database, self._store, found))
                yield None
        finally:
            self._sweep_at = time.monotonic() + self._every_seconds
        if swept:
            log.info("%d blobs deleted that no row refers to", swept)

    def _note_used(self, used: sqlite3.Connection) -> Pages:
        note = "INSERT OR IGNORE INTO used VALUES (?, ?)"
        last: int | None = 0
        while last is not None:
            with self._database.snapshot() as transaction:
                named, last = collection.references(transaction, beyond=last, limit=PURGED_ROWS)
            used.executemany(note, named)
            yield None
        with self._database.snapshot() as transaction:
            used.executemany(note, collection.references_of_jobs(transaction))

    def _mark_unused_of(self, owner_id: int, used: sqlite3.Connection) -> Iterator[int]:
        """Mark an owner's images page by page. Yields how many of each."""
        beyond = ""
        query = "SELECT 1 FROM used WHERE owner = ? AND digest = ?"
        while True:
            with self._database.snapshot() as transaction:
                some = collection.unused(
                    transaction, owner_id, self._keep_images, beyond=beyond, limit=PURGED_ROWS
                )
            if not some:
                return
            beyond = some[-1]
            free = [one for one in some if not used.execute(query, (owner_id, one)).fetchone()]
            with self._database.transaction() as transaction:
                marked = collection.mark_for_collection(
                    transaction, owner_id, free, self._keep_images
                )
            yield marked

    def collect(self, owner_id: int, digests: Sequence[str]) -> None:
        """Delete images that were marked long enough ago."""
        for digest in digests:
            with self._database.transaction() as transaction:
                # Bytes first, under the lock: whoever stores the image again waits for it.
                if collection.hold_marked(transaction, owner_id, digest):
                    self._store.delete(image_key(owner_id, digest))
                    known_images.remove(transaction, owner_id, digest)
