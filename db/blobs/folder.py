"""The blob store in a folder."""

import contextlib
import ctypes
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from db import metrics
from db.blobs.store import Stored, check_size
from db.vocabulary.errors import NotFound, StorageError

#: From so many files on, one wait for the whole disk is shorter than one for each file.
MIN_TO_SYNC_ALL = 8
#: Blobs of one page of a listing.
LISTED = 1_000


class FolderStore:
    """Stores blobs as files below a folder, each written aside and renamed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, key: str, source: IO[bytes]) -> None:
        """See BlobStore.put."""
        self.put_many({key: source})

    def put_many(self, sources: Mapping[str, IO[bytes]]) -> None:
        """See BlobStore.put_many."""
        written: dict[str, Path] = {}
        key = ""
        try:
            for key, source in sources.items():
                with _file_errors(key):
                    self._write_aside(key, source, written)
            with _file_errors(key):
                self._make_durable(written)
        except BaseException:
            for aside in written.values():
                aside.unlink(missing_ok=True)
            raise

    def _write_aside(self, key: str, source: IO[bytes], written: dict[str, Path]) -> None:
        path = self.folder / key
        aside = path.with_name(f".new-{secrets.token_hex(8)}")
        try:
            file = open(aside, "xb", opener=_private)  # noqa: SIM115 - Path.open has no opener
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(aside, "xb", opener=_private)  # noqa: SIM115
        written[key] = aside
        with file:
            shutil.copyfileobj(source, file, 1 << 20)

    def _make_durable(self, written: Mapping[str, Path]) -> None:
        """Make files durable that were written aside, then their names."""
        parents = {(self.folder / key).parent for key in written}
        # syncfs reaches one file system, and a folder of an owner may be a mount of its own.
        is_one = {parent.stat().st_dev for parent in parents} == {self.folder.stat().st_dev}
        many = len(written) >= MIN_TO_SYNC_ALL and is_one
        if not (many and _sync_all(self.folder)):
            for aside in written.values():
                _sync(aside)
        for key, aside in written.items():
            aside.replace(self.folder / key)
        if not (many and _sync_all(self.folder)):
            for folder in {one for parent in parents for one in self._up_to_root(parent)}:
                _sync(folder)

    def _up_to_root(self, folder: Path) -> list[Path]:
        """A folder and those around it, whose names may be new too."""
        depth = len(folder.relative_to(self.folder).parts)
        return [folder, *folder.parents][: depth + 1]

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

    def pages(self) -> Iterator[list[Stored]]:
        """See BlobStore.pages. Files that a crash has left beside their place are among them."""
        page: list[Stored] = []
        now = time.time()
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):  # it was deleted just now
                    stat = path.stat()
                    key = str(path.relative_to(self.folder))
                    page.append(Stored(key, stat.st_size, now - stat.st_mtime))
                if len(page) == LISTED:
                    yield page
                    page = []
        yield page

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


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync(path: Path) -> None:
    """Make a file's bytes durable, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_all(folder: Path) -> bool:
    """Make everything durable that was written to a folder's file system; False if impossible.

    One wait for the disk instead of one for each file: syncfs(2), which Linux has.
    """
    syncfs = getattr(ctypes.CDLL(None), "syncfs", None)
    if syncfs is None:
        return False
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return bool(syncfs(descriptor) == 0)
    finally:
        os.close(descriptor)


@contextmanager
def _file_errors(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"no such blob: {key!r}") from error
    except OSError as error:
        metrics.STORE_ERRORS.inc()
        raise StorageError(f"the blob store failed: {error.strerror}") from error
