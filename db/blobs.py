"""The blob store: bytes under keys, in a folder or in S3 (db/s3.py).

    OWNER/images/ab/abcdef…      an image, named by its SHA-256 within its owner
    OWNER/spool/ID.jsonl         a streamed submission, until it is imported
    OWNER/results/JOB.jsonl      the results of a finished job
    OWNER/files/ID               a file of OpenAI's interface

Writing the same key twice writes the same bytes. A reader sees nothing of a blob that is not whole;
one of S3 that is removed while it is read breaks off.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from db.errors import ImageTooLarge, NotFound, StorageError
from db.settings import StorageSettings


def image_key(owner_id: int, digest: str) -> str:
    """Key of an owner's image."""
    return f"{owner_id}/images/{digest[:2]}/{digest}"


def spool_key(owner_id: int, name: str) -> str:
    """Key of a streamed submission that waits for its import."""
    return f"{owner_id}/spool/{name}.jsonl"


def results_key(owner_id: int, job_id: str) -> str:
    """Key of the results file of a finished job."""
    return f"{owner_id}/results/{job_id}.jsonl"


def file_key(owner_id: int, file_id: str) -> str:
    """Key of a file of OpenAI's API."""
    return f"{owner_id}/files/{file_id}"


class BlobStore(Protocol):
    """Interface of both stores. Every method raises StorageError if the store is unavailable."""

    def put(self, key: str, source: IO[bytes]) -> None:
        """Store what `source` still holds; durable when it returns."""

    def get(self, key: str, most: int | None = None) -> bytes:
        """Return a whole blob of at most `most` bytes.

        Raises:
            NotFound: There is none.
            ImageTooLarge: It is larger; nothing was read.
        """

    def open(self, key: str, offset: int = 0) -> IO[bytes]:
        """Open a blob from `offset` on as a stream, which the caller closes.

        Raises:
            NotFound: There is none.
        """

    def delete(self, key: str) -> None:
        """Delete a blob; a missing one is no error."""

    def presign_put(self, key: str, seconds: int, size_bytes: int) -> str | None:
        """Return a URL for a PUT of that many bytes by a client, or None if unsupported."""

    def prepare(self) -> None:
        """Create the bucket or folder if it is missing. Safe to repeat."""


class FolderStore:
    """Stores blobs as files below a folder, each written aside and renamed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, key: str, source: IO[bytes]) -> None:
        """See BlobStore.put."""
        path = self.folder / key
        with _file_errors(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                    file.flush()
                    os.fsync(file.fileno())
                Path(name).replace(path)
                _sync_folders(path.parent, self.folder)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise

    def get(self, key: str, most: int | None = None) -> bytes:
        """See BlobStore.get."""
        with _file_errors(key):
            path = self.folder / key
            check_size(path.stat().st_size, most)
            return path.read_bytes()

    def open(self, key: str, offset: int = 0) -> IO[bytes]:
        """See BlobStore.open."""
        with _file_errors(key):
            file = (self.folder / key).open("rb")
            file.seek(offset)
            return file

    def delete(self, key: str) -> None:
        """See BlobStore.delete."""
        with _file_errors(key):
            (self.folder / key).unlink(missing_ok=True)

    def presign_put(self, key: str, seconds: int, size_bytes: int) -> str | None:
        """Return None: a folder takes no uploads."""
        return None

    def prepare(self) -> None:
        """Do nothing: the folder was created with the store."""


def _sync_folders(folder: Path, root: Path) -> None:
    """Make a new name durable, with those of the folders that may be new."""
    for parent in (folder, *folder.parents):
        descriptor = os.open(parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if parent == root:
            return


@contextmanager
def _file_errors(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"no such blob: {key!r}") from error
    except OSError as error:
        raise StorageError(f"the blob store failed: {error.strerror}") from error


def check_size(size: int, most: int | None) -> None:
    """Reject a blob of `size` bytes if it is larger than `most`.

    Raises:
        ImageTooLarge: It has more.
    """
    if most is not None and size > most:
        raise ImageTooLarge(f"{size} bytes; the limit is {most}")


def open_store(settings: StorageSettings) -> BlobStore:
    """Open the store that the settings name."""
    if settings.store == "folder":
        return FolderStore(settings.store_folder)
    from db.s3 import S3Store  # half a second of imports that others do without

    return S3Store(settings)
