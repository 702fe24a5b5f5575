"""The blob store: bytes under keys, in a folder or in S3.

    OWNER/images/ab/abcdef…      an image, named by its SHA-256 within its owner
    OWNER/spool/ID.jsonl         a streamed submission, until it is imported
    OWNER/results/JOB.jsonl      the results of a finished job
    OWNER/files/ID               a file of OpenAI's interface

Writing the same key twice writes the same bytes. A reader sees a blob whole or not at all.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from s3transfer.exceptions import RetriesExceededError

from db.errors import ImageTooLarge, NotFound, StorageError
from db.settings import RecordSettings


def image_key(owner_id: int, digest: str) -> str:
    """Where an owner's image is kept."""
    return f"{owner_id}/images/{digest[:2]}/{digest}"


def spool_key(owner_id: int, name: str) -> str:
    """Where a streamed submission waits for its import."""
    return f"{owner_id}/spool/{name}.jsonl"


def results_key(owner_id: int, job_id: str) -> str:
    """Where the results of a finished job are kept."""
    return f"{owner_id}/results/{job_id}.jsonl"


def file_key(owner_id: int, file_id: str) -> str:
    """Where a file of OpenAI's interface is kept."""
    return f"{owner_id}/files/{file_id}"


class BlobStore(Protocol):
    """What both stores can do. Every method raises StorageError when the store is away."""

    def put(self, key: str, source: IO[bytes]) -> None:
        """Store everything that `source` has left; durable when it returns."""

    def get(self, key: str, most: int | None = None) -> bytes:
        """The whole blob, of at most `most` bytes.

        Raises:
            NotFound: There is none.
            ImageTooLarge: It is larger; nothing was read.
        """

    def open(self, key: str, offset: int = 0) -> IO[bytes]:
        """Read a blob from `offset` on, as a stream to be closed.

        Raises:
            NotFound: There is none.
        """

    def delete(self, key: str) -> None:
        """Remove a blob; one that is not there is no error."""

    def presign_put(self, key: str, seconds: int, size_bytes: int) -> str | None:
        """A URL to which a client may PUT that many bytes itself, or None if there is none."""

    def prepare(self) -> None:
        """Make the bucket or folder if it is not there. Safe to repeat."""


class FolderStore:
    """Blobs as files below a folder, each written aside and renamed into place."""

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
            _check_size(path.stat().st_size, most)
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
        """A folder cannot be written to from elsewhere."""
        return None

    def prepare(self) -> None:
        """The folder was made when the store was opened."""


def _sync_folders(folder: Path, root: Path) -> None:
    """Make a new name durable, and those of the folders that may have been made for it."""
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
        raise NotFound(f"there is no blob {key!r}") from error
    except OSError as error:
        raise StorageError(f"the blob store failed: {error.strerror}") from error


class S3Store:
    """Blobs as objects of one bucket.

    Checksums are sent only where the protocol demands them, because R2, OVH, MinIO and Swift
    refuse the newer ones (botocore#3352).
    """

    def __init__(self, settings: RecordSettings) -> None:
        self.bucket = settings.s3_bucket
        self.prefix = settings.s3_prefix
        self.client: Any = s3_client(settings)
        self._once: Any = s3_client(settings, attempts=1)

    def put(self, key: str, source: IO[bytes]) -> None:
        """See BlobStore.put."""
        with _s3_errors(key):
            self.client.upload_fileobj(source, self.bucket, self.prefix + key)

    def get(self, key: str, most: int | None = None) -> bytes:
        """See BlobStore.get."""
        with _s3_errors(key):
            found = self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)
            _check_size(found["ContentLength"], most)
            data: bytes = found["Body"].read()
            return data

    def open(self, key: str, offset: int = 0) -> IO[bytes]:
        """See BlobStore.open. Spooled to a local file, so that no connection waits for a reader."""
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        try:
            with _s3_errors(key):
                self.client.download_fileobj(self.bucket, self.prefix + key, file)
        except BaseException:
            file.close()
            raise
        file.seek(offset)
        return file

    def delete(self, key: str) -> None:
        """See BlobStore.delete. Tried once: images are deleted under a lock of the record."""
        with _s3_errors(key):
            self._once.delete_object(Bucket=self.bucket, Key=self.prefix + key)

    def presign_put(self, key: str, seconds: int, size_bytes: int) -> str | None:
        """See BlobStore.presign_put."""
        url: str = self.client.generate_presigned_url(
            "put_object",
            Params={
                "Bucket": self.bucket,
                "Key": self.prefix + key,
                "ContentLength": size_bytes,
            },
            ExpiresIn=seconds,
        )
        return url

    def prepare(self) -> None:
        """See BlobStore.prepare."""
        with _s3_errors(self.bucket):
            listed = self.client.list_buckets()["Buckets"]
            if self.bucket not in {bucket["Name"] for bucket in listed}:
                self.client.create_bucket(Bucket=self.bucket)


def s3_client(settings: RecordSettings, *, attempts: int = 3) -> Any:
    """A boto3 client with this service's endpoint, credentials, timeouts and retries."""
    return boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint or None,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key or None,
        aws_secret_access_key=settings.s3_secret_key.get_secret_value() or None,
        config=Config(
            signature_version="s3v4",
            connect_timeout=settings.s3_connect_timeout_seconds,
            read_timeout=settings.s3_read_timeout_seconds,
            retries={"mode": "standard", "total_max_attempts": attempts},
            s3={"addressing_style": "path" if settings.s3_path_style else "auto"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            max_pool_connections=32,
        ),
    )


def _check_size(size: int, most: int | None) -> None:
    if most is not None and size > most:
        raise ImageTooLarge(f"{size} bytes; at most {most} are accepted")


_MISSING = {"NoSuchKey", "404", "NotFound"}


@contextmanager
def _s3_errors(key: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in _MISSING:
            raise NotFound(f"there is no blob {key!r}") from error
        raise StorageError(f"the blob store answered {code}") from error
    except (BotoCoreError, Boto3Error, RetriesExceededError, OSError) as error:
        raise StorageError(f"the blob store is away: {type(error).__name__}") from error


def open_store(settings: RecordSettings) -> BlobStore:
    """The store that the settings name."""
    return S3Store(settings) if settings.store == "s3" else FolderStore(settings.store_folder)
