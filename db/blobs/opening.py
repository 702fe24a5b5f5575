"""Opens the blob store that the settings name."""

from db.blobs.folder import FolderStore
from db.blobs.store import BlobStore
from db.settings import StorageSettings


def open_store(settings: StorageSettings) -> BlobStore:
    """Open the store that the settings name."""
    if settings.store == "folder":
        return FolderStore(settings.store_folder)
    from db.blobs.s3 import S3Store  # half a second of imports that others do without

    return S3Store(settings)
