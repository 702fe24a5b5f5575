"""The bytes of a stored image, which are always those of its digest."""

import hashlib
from collections.abc import Mapping
from typing import IO

from db.blobs.store import BlobStore, image_key
from db.images import known_images
from db.sql.database import Database
from db.vocabulary.errors import ImageMismatch, ImageNotFound, NotFound


def read_image(
    database: Database, store: BlobStore, owner_id: int, digest: str, most: int | None = None
) -> bytes:
    """Return the bytes of an image that was uploaded or fetched.

    An image whose bytes are gone, or are other ones, is forgotten: the next upload stores it again.

    Args:
        most: Most bytes to read; see BlobStore.get.

    Raises:
        ImageNotFound: There are no bytes.
        ImageMismatch: They have another digest: the storage is damaged, or other bytes were put
            there with a presigned URL.
        StorageError: The blob store or the database is unavailable.
    """
    try:
        data = store.get(image_key(owner_id, digest), most)
    except NotFound as error:
        _forget(database, owner_id, digest)
        raise ImageNotFound(f"image {digest} is not in the blob store: upload it") from error
    if hashlib.sha256(data).hexdigest() != digest:
        _forget(database, owner_id, digest)
        raise ImageMismatch(f"the bytes stored as {digest} have another digest: upload it again")
    return data


def store_images(
    database: Database,
    store: BlobStore,
    owner_id: int,
    sources: Mapping[str, IO[bytes]],
    sizes: Mapping[str, int],
) -> None:
    """Store images of an owner by their digests, with few durable steps however many they are.

    They are in use before their bytes are stored, so that no collection takes them in between. With
    a row they are collected some day, even if what refers to them is refused.

    Args:
        sources: Their bytes, each to be read from where it stands.
        sizes: Their sizes in bytes.

    Raises:
        StorageError: The blob store or the database is unavailable.
    """
    with database.transaction() as transaction:
        known_images.mark_used(transaction, owner_id, list(sources), storing=True)
    store.put_many({image_key(owner_id, digest): source for digest, source in sources.items()})
    with database.transaction() as transaction:
        known_images.add(transaction, owner_id, dict(sizes))


def _forget(database: Database, owner_id: int, digest: str) -> None:
    with database.transaction() as transaction:
        known_images.remove(transaction, owner_id, digest)
