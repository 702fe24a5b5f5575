"""Loads items: reads their images from the blob store, decodes them, and prepares their prompts."""

from dataclasses import replace

from db.blobs.store import BlobStore
from db.images.image_bytes import read_image
from db.queue.lease import Lease
from db.sql.database import Database
from db.vocabulary.states import SourceApi
from workers.families import alttext
from workers.families.base import Family, Prepared, storable
from workers.images import decode
from workers.notices import Notices


class ItemLoader:
    """Makes leased items ready for the device. Thread-safe."""

    def __init__(
        self, database: Database, store: BlobStore, family: Family, notices: Notices
    ) -> None:
        self._database, self._store = database, store
        self._family, self._notices = family, notices

    def prepare(self, lease: Lease) -> Prepared:
        """Prepare an item; the text of a chat completion is streamed while it is generated.

        Raises:
            ItemError: Its images are gone or were changed, or the model cannot take it.
            StorageError: The blob store is unavailable.
        """
        target_size = self._family.target_size
        images = [
            decode(self._read(lease.owner_id, ref), target_size) for ref in lease.stored_references
        ]
        item = alttext.prepare(self._family, lease.request, images)
        if lease.source_api is SourceApi.CHAT:  # its caller may be streaming
            return replace(
                item, on_text=lambda text: self._notices.stream_text(lease.job_id, storable(text))
            )
        return item

    def _read(self, owner_id: int, reference: str) -> bytes:
        digest = reference.removeprefix("blob:")
        return read_image(self._database, self._store, owner_id, digest)
