"""Checks of the input files of batches: each becomes a job, or ends with its mistakes.

A file is checked a slice at a time, and its owner takes turns with others; see turns.py. Whoever is
stopped in the middle begins anew.
"""

import logging

from db.blobs.store import BlobStore, file_key
from db.metrics import ITEMS_ACCEPTED
from db.openai import batches
from db.openai.batch import Batch
from db.openai.batch_input import BatchInput
from db.queue import quotas
from db.queue.data_images import DataImages
from db.queue.submissions import NewJob
from db.settings import SubmissionSettings
from db.sql.database import Database
from db.vocabulary.errors import NotFound, RequestError
from db.vocabulary.limits import OwnerLimits
from db.vocabulary.states import SourceApi
from workers.upkeep.turns import Pages

log = logging.getLogger(__name__)


class BatchChecks:
    """Checks input files, and starts their batches."""

    def __init__(
        self,
        database: Database,
        store: BlobStore,
        settings: SubmissionSettings,
        limits: OwnerLimits,
    ) -> None:
        self._database, self._store = database, store
        self._settings, self._limits = settings, limits

    def check(self, batch: Batch) -> Pages:
        """Check the input file of a batch, and start the batch or let it fail."""
        images = DataImages(
            self._database,
            self._store,
            batch.owner_id,
            self._limits,
            self._settings.max_upload_bytes,
        )
        with BatchInput(self._database, self._settings, images, batch.endpoint) as lines:
            try:
                with self._store.open(file_key(batch.owner_id, batch.input_file_id)) as stream:
                    for _ in lines.read(stream):
                        yield None
            except NotFound:
                lines.note(NotFound("the input file was deleted before it was checked"))
            if not lines.mistakes:
                self._start(batch, lines)
            if lines.mistakes:
                self._fail(batch, lines)

    def _start(self, batch: Batch, lines: BatchInput) -> None:
        checker, spool = lines.checker, lines.spool
        key = spool.store(self._store, batch.owner_id)
        job = NewJob(
            batch.owner_id,
            checker.card.name,
            checker.defaults,
            spool_key=key,
            spool_lines=spool.count,
            source_api=SourceApi.BATCH,
        )
        started = False
        try:
            with self._database.transaction() as transaction:
                quotas.check_submission(transaction, batch.owner_id, self._limits, spool.count)
                started = batches.start(transaction, batch, job)
        except RequestError as error:
            lines.note(error)
        if started:
            ITEMS_ACCEPTED.labels(job.source_api).inc(spool.count)
            log.info("batch %s starts with %d lines", batch.id, spool.count)
        else:
            self._store.delete(key)

    def _fail(self, batch: Batch, lines: BatchInput) -> None:
        with self._database.transaction() as transaction:
            batches.fail(
                transaction,
                batch,
                lines.mistakes,
                model=lines.model or None,
                lines=lines.spool.count,
            )
        log.info("batch %s fails: its input file has mistakes", batch.id)
