"""Loads items: reads their images from the blob store, decodes them, and prepares their prompts."""

from collections.abc import Callable
from dataclasses import replace

from PIL import Image

from db.blobs.store import BlobStore
from db.images.image_bytes import read_image
from db.queue.lease import Lease
from db.sql.database import Database
from db.vocabulary.states import SourceApi
from db.vocabulary.texts import storable
from workers.engine.pixel_budget import PixelBudget
from workers.families import alttext
from workers.families.base import Family, Prepared
from workers.images import decode, decoded_pixels
from workers.notices import Notices


class ItemLoader:
    """Makes leased items ready for the device. Thread-safe.

    Args:
        pixels: Most pixels that are decoded at the same time.
    """

    def __init__(
        self, database: Database, store: BlobStore, family: Family, notices: Notices, pixels: int
    ) -> None:
        self._database, self._store = database, store
        self._family, self._notices = family, notices
        self._budget = PixelBudget(pixels)

    def prepare(self, lease: Lease) -> Prepared:
        """Prepare an item; the text of a chat completion is streamed while it is generated.

        Raises:
            ItemError: Its images are gone or were changed, or the model cannot take it.
            StorageError: The blob store is unavailable.
        """
        if lease.refusal:  # it was advanced by an intake that does not know such items
            raise lease.refusal
        item = alttext.prepare(
            self._family, lease.request, lambda use: self._with_images(lease, use)
        )
        if lease.source_api is SourceApi.CHAT:  # its caller may be streaming
            return replace(
                item, on_text=lambda text: self._notices.stream_text(lease.job_id, storable(text))
            )
        return item

    def _with_images(self, lease: Lease, use: Callable[[list[Image.Image]], Prepared]) -> Prepared:
        """Call `use` with the images of an item, within the budget."""
        if not lease.stored_references:
            return use([])
        # Pieces are cut from the whole image.
        in_pieces = lease.request.get("options", {}).get("image_detail") == "high"
        target_size = None if in_pieces else self._family.target_size
        files = [self._read(lease.owner_id, reference) for reference in lease.stored_references]
        with self._budget.holding(sum(decoded_pixels(file, target_size) for file in files)):
            # Not kept in a name: no frame holds them when the budget is given back.
            return use([decode(file, target_size) for file in files])

    def _read(self, owner_id: int, reference: str) -> bytes:
        digest = reference.removeprefix("blob:")
        return read_image(self._database, self._store, owner_id, digest)
