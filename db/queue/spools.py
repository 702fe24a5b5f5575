"""Spools: checked items on their way into the blob store, from where upkeep imports them."""

import secrets
import tempfile

import orjson

from db.blobs.store import BlobStore, spool_key
from db.queue.submissions import NewItem


class SpoolWriter:
    """Gathers checked items in a temporary file, and stores it as one blob."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by its owner
        self.count = 0

    def add(self, item: NewItem) -> None:
        """Add one item."""
        kept = {"request": item.request, "custom_id": item.custom_id}
        self._file.write(orjson.dumps(kept) + b"\n")
        self.count += 1

    def store(self, store: BlobStore, owner_id: int) -> str:
        """Store the items durably. Returns their key."""
        key = spool_key(owner_id, secrets.token_hex(16))
        self._file.seek(0)
        store.put(key, self._file)
        return key

    def close(self) -> None:
        """Discard the items that were not stored."""
        self._file.close()
