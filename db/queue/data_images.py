"""`data:` images of a submission: decoded, hashed once, and stored in groups.

The database never holds bytes: a `data:` image becomes a blob, and its item refers to it.
"""

import base64
import binascii
import hashlib
import io

from db.blobs.store import BlobStore
from db.images.image_bytes import store_images
from db.queue import quotas
from db.sql.database import Database
from db.vocabulary.errors import RequestError, TooLarge
from db.vocabulary.limits import OwnerLimits

#: Bytes and images that are gathered before they are stored.
GROUP_BYTES, GROUP_IMAGES = 16 * 2**20, 500
_OF_URLS = str.maketrans("-_", "+/")
#: What programs write as an escape in a URL.
_ESCAPES = {"%2B": "+", "%2F": "/", "%3D": "=", "%0A": "", "%0D": "", "%20": ""}


class DataImages:
    """Gathers the images of an owner's submission and stores them with few durable steps.

    Args:
        usual: Limits of owners without limits of their own.
        max_bytes: Largest image.
    """

    def __init__(
        self,
        database: Database,
        store: BlobStore,
        owner_id: int,
        usual: OwnerLimits,
        max_bytes: int,
    ) -> None:
        self._database, self._store, self.owner_id = database, store, owner_id
        self._usual, self._max_bytes = usual, max_bytes
        self._waiting: dict[str, bytes] = {}
        self._waiting_bytes = 0

    def reference(self, reference: str, field: str) -> str:
        """Return the reference of the blob that a `data:` image becomes; any other as it is.

        Args:
            field: Where it is, for errors.

        Raises:
            RequestError: It is no base64, or too large.
            QuotaExceeded: The owner may not store so much.
        """
        if not reference.startswith("data:"):
            return reference
        try:
            data = _decoded(reference.partition(",")[2])
        except binascii.Error as error:
            raise RequestError("a data: image is not base64", field=field) from error
        if len(data) > (most := self._max_bytes):
            raise TooLarge(
                f"a data: image has {len(data)} bytes; at most {most} are taken", field=field
            )
        digest = hashlib.sha256(data).hexdigest()
        if digest not in self._waiting:
            self._waiting[digest] = data
            self._waiting_bytes += len(data)
        if self._waiting_bytes >= GROUP_BYTES or len(self._waiting) >= GROUP_IMAGES:
            self.store()
        return f"blob:{digest}"

    def store(self) -> None:
        """Store what was gathered. To be called before anything refers to it."""
        if not self._waiting:
            return
        with self._database.snapshot() as transaction:
            quotas.check_upload(transaction, self.owner_id, self._usual, self._waiting_bytes)
        store_images(
            self._database,
            self._store,
            self.owner_id,
            {digest: io.BytesIO(data) for digest, data in self._waiting.items()},
            {digest: len(data) for digest, data in self._waiting.items()},
        )
        self._waiting, self._waiting_bytes = {}, 0


def _decoded(text: str) -> bytes:
    """Decode base64 as people produce it: wrapped, without padding, of the alphabet for URLs.

    Raises:
        binascii.Error: It is something else.
    """
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        # One by one: to unquote megabytes of escapes takes gigabytes.
        for escape, character in _ESCAPES.items():
            text = text.replace(escape, character).replace(escape.lower(), character)
        plain = "".join(text.split()).rstrip("=").translate(_OF_URLS)
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
