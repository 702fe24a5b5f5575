"""The blob store in a folder."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from db import metrics
from db.blobs.store import check_size
from db.vocabulary.errors import NotFound, StorageError


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

    def check_writable(self) -> None:
        """See BlobStore.check_writable."""
        try:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                file.write(b"ready?")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"the blob store cannot be written: {error.strerror}") from error

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
        metrics.STORE_ERRORS.inc()
        raise StorageError(f"the blob store failed: {error.strerror}") from error
