"""Retention and garbage collection, by the rules of db/queue/retention.py."""

import logging
import sqlite3
import time
from contextlib import closing

from db.blobs.store import BlobStore, image_key, results_key
from db.images import collection, known_images
from db.queue import retention
from db.queue.jobs import Job
from db.sql.database import Database
from db.vocabulary.states import SourceApi
from db.webhooks import outbox
from workers.settings import UpkeepSettings

DAY_SECONDS = 86_400.0
#: Rows of one transaction, and how much is removed in one look.
PURGED_ROWS, PAGES, JOBS, IMAGES = 2_000, 25, 200, 500
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

    def run_once(self) -> bool:
        """Delete what is too old, from time to time. Returns True if there may be more."""
        if time.monotonic() >= self._next_run:
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
        if self._keep_images and time.monotonic() >= self._mark_at:
            self._mark_at = time.monotonic() + self._every_seconds
            self.mark_unused()
        return bool(self.remove_jobs() + self.collect())

    def remove_jobs(self) -> int:
        """Purge some rows of deleted jobs. Returns how many jobs were visited."""
        with self._database.snapshot() as transaction:
            found = retention.deleted_jobs(transaction, JOBS)
        pages = PAGES
        for job in found:
            pages = self._remove(job, pages)
        return len(found)

    def _remove(self, job: Job, pages: int) -> int:
        """Purge up to `pages` pages of a job, then the job. Returns the pages that are left."""
        removed = 1
        while removed:
            if not pages:
                return 0  # others want their turn; it goes on at the next look
            with self._database.transaction() as transaction:
                removed = retention.purge_items(transaction, job.id, PURGED_ROWS)
            pages -= removed > 0
        if job.source_api == SourceApi.JOB:
            self._store.delete(results_key(job.owner_id, job.id))
        if job.spool_key:
            self._store.delete(job.spool_key)
        with self._database.transaction() as transaction:
            retention.purge_job(transaction, job.id)
        return pages

    def mark_unused(self) -> int:
        """Mark images that were not used for long and have no reference. Returns how many."""
        with self._database.snapshot() as transaction:
            owners = collection.owners_with_unused(transaction, self._keep_images)
        if not owners:
            return 0
        # In a file when it grows: there may be more images than fit into memory.
        with closing(sqlite3.connect("", isolation_level=None)) as used:
            used.execute(
                "CREATE TABLE used (owner INTEGER, digest TEXT, PRIMARY KEY (owner, digest))"
                " WITHOUT ROWID"
            )
            used.execute("BEGIN")
            self._note_used(used)
            marked = sum(self._mark_unused_of(owner_id, used) for owner_id in owners)
        if marked:
            log.info("%d unused images marked for garbage collection", marked)
        return marked

    def _note_used(self, used: sqlite3.Connection) -> None:
        note = "INSERT OR IGNORE INTO used VALUES (?, ?)"
        last: int | None = 0
        while last is not None:
            with self._database.snapshot() as transaction:
                named, last = collection.references(transaction, beyond=last, limit=PURGED_ROWS)
            used.executemany(note, named)
        with self._database.snapshot() as transaction:
            used.executemany(note, collection.references_of_jobs(transaction))

    def _mark_unused_of(self, owner_id: int, used: sqlite3.Connection) -> int:
        marked, beyond = 0, ""
        query = "SELECT 1 FROM used WHERE owner = ? AND digest = ?"
        while True:
            with self._database.snapshot() as transaction:
                some = collection.unused(
                    transaction, owner_id, self._keep_images, beyond=beyond, limit=PURGED_ROWS
                )
            if not some:
                return marked
            beyond = some[-1]
            free = [one for one in some if not used.execute(query, (owner_id, one)).fetchone()]
            with self._database.transaction() as transaction:
                marked += collection.mark_for_collection(
                    transaction, owner_id, free, self._keep_images
                )

    def collect(self) -> int:
        """Delete images that were marked long enough ago. Returns how many were visited."""
        with self._database.snapshot() as transaction:
            found = collection.marked_images(transaction, IMAGES)
        for owner_id, digest in found:
            with self._database.transaction() as transaction:
                # Bytes first, under the lock: whoever stores the image again waits for it.
                if collection.hold_marked(transaction, owner_id, digest):
                    self._store.delete(image_key(owner_id, digest))
                    known_images.remove(transaction, owner_id, digest)
        return len(found)
