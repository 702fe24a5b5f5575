"""The two files of a finished batch: answers, and errors; and uploads of files of any size."""

import tempfile
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import IO

from db.blobs.store import BlobStore, file_key
from db.openai import batches, files
from db.openai.batch import Batch
from db.openai.files import NewFile
from db.queue import results
from db.sql.database import Database
from db.vocabulary.items import Item
from db.vocabulary.openai_rendering import line, usage
from workers.upkeep.turns import WAITING, Page, Pages

#: Items read in one transaction.
OUTPUT_ITEMS = 2_000
#: A file is kept in memory up to this size while it is written, then on disk.
SPOOL_BYTES = 8 * 2**20
#: Large files that are put in the store at the same time; an owner has two at most.
UPLOADS = 8


class Uploads:
    """Puts files in the store; large ones in threads, so that nobody else waits for them."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._threads = ThreadPoolExecutor(UPLOADS, thread_name_prefix="upload")

    def put(self, key: str, file: IO[bytes]) -> Pages:
        """Put a file under a key, from its beginning to where it stands."""
        is_small = file.tell() <= SPOOL_BYTES
        file.seek(0)
        if is_small:
            self._store.put(key, file)
            return
        uploading = self._threads.submit(self._store.put, key, file)
        while not uploading.done():
            yield WAITING  # if nobody goes on from here, the file is closed and the upload fails
        uploading.result()

    def close(self) -> None:
        """Wait for what is being put; what has not begun is put after the next start."""
        self._threads.shutdown(cancel_futures=True)


class Outputs:
    """Writes files of batches, and deletes expired files."""

    def __init__(self, database: Database, store: BlobStore, uploads: Uploads) -> None:
        self._database, self._store, self._uploads = database, store, uploads

    def finalize(self, batch: Batch) -> Pages:
        """Write a batch's files and record that. Safe to repeat: it writes the same again."""
        tokens = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        with (
            tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as output,
            tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as mistakes,
        ):
            for page in results.pages_in_order(self._database, str(batch.job_id), OUTPUT_ITEMS):
                for item in page:
                    self._write(batch, item, output if item.answer else mistakes)
                    for name, count in usage([item.answer]).items() if item.answer else ():
                        tokens[name] += count
                if len(page) == OUTPUT_ITEMS:
                    yield None
            kept = {}
            for part, file in (("output", output), ("errors", mistakes)):
                kept[part] = yield from self._keep(batch, part, file)
        with self._database.transaction() as transaction:
            for new in kept.values():
                if new:
                    files.add(transaction, new)
            ids = {part: new.id if new else None for part, new in kept.items()}
            batches.finalize(
                transaction,
                batch.id,
                output_file_id=ids["output"],
                error_file_id=ids["errors"],
                usage=tokens,
            )

    def _write(self, batch: Batch, item: Item, file: IO[bytes]) -> None:
        expired = batch.expired_at is not None
        file.write(line(item, str(batch.job_id), str(batch.model), expired=expired))

    def _keep(
        self, batch: Batch, part: str, file: IO[bytes]
    ) -> Generator[Page, None, NewFile | None]:
        """Store a file that is not empty: clients take an empty one for an answer."""
        if not (size := file.tell()):
            return None
        file_id = batches.part_id(batch.id, part)
        yield from self._uploads.put(file_key(batch.owner_id, file_id), file)
        return NewFile(
            file_id,
            batch.owner_id,
            filename=f"{batch.id}_{part}.jsonl",
            purpose="batch_output",
            size_bytes=size,
            expires_seconds=batch.output_expires_seconds,
        )

    def remove(self, file: files.File) -> None:
        """Delete a file: first its bytes, then its row. Safe to repeat."""
        self._store.delete(file_key(file.owner_id, file.id))
        with self._database.transaction() as transaction:
            files.remove(transaction, file.owner_id, file.id)
