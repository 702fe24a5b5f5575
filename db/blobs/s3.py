"""The blob store in a bucket of S3, or of any store with its protocol."""

import io
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO, Any

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from db import metrics
from db.blobs.store import Stored, check_size
from db.settings import StorageSettings
from db.vocabulary.errors import NotFound, StorageError

_MISSING = {"NoSuchKey", "404", "NotFound"}
#: How much of an open blob is asked for, and kept in memory, at a time.
RANGE_BYTES = 4 * 2**20
#: Blobs that are put at the same time, of many.
PUTS = 8
#: How often a piece is asked for until reading fails.
RANGE_TRIES = 3


class S3Store:
    """Stores blobs as objects of one bucket.

    Checksums are sent only where the protocol demands them, because R2, OVH, MinIO and Swift
    refuse the newer ones (botocore#3352).
    """

    def __init__(self, settings: StorageSettings) -> None:
        self.bucket = settings.s3_bucket
        self.prefix = settings.s3_prefix
        self.client: Any = s3_client(settings)
        self._once: Any = s3_client(settings, attempts=1)

    def put(self, key: str, source: IO[bytes]) -> None:
        """See BlobStore.put."""
        with _s3_errors(key):
            self.client.upload_fileobj(source, self.bucket, self.prefix + key)

    def put_many(self, sources: Mapping[str, IO[bytes]]) -> None:
        """See BlobStore.put_many."""
        with ThreadPoolExecutor(PUTS, thread_name_prefix="put") as threads:
            for putting in [threads.submit(self.put, *each) for each in sources.items()]:
                putting.result()

    def get(self, key: str, most: int | None = None) -> bytes:
        """See BlobStore.get."""
        with _s3_errors(key):
            found = self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)
            check_size(found["ContentLength"], most)
            data: bytes = found["Body"].read()
            return data

    def open(self, key: str, offset: int = 0) -> IO[bytes]:
        """See BlobStore.open. Asked for in pieces, so that no connection waits for a reader."""
        return io.BufferedReader(_Object(self, key, offset), RANGE_BYTES)

    def delete(self, key: str) -> None:
        """See BlobStore.delete. Tried once: images are deleted under a lock of the database."""
        with _s3_errors(key):
            self._once.delete_object(Bucket=self.bucket, Key=self.prefix + key)

    def pages(self) -> Iterator[list[Stored]]:
        """See BlobStore.pages."""
        with _s3_errors(self.prefix):
            listing = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix
            )
            for found in listing:
                now = datetime.now(UTC)
                yield [
                    Stored(
                        each["Key"].removeprefix(self.prefix),
                        each["Size"],
                        (now - each["LastModified"]).total_seconds(),
                    )
                    for each in found.get("Contents", ())
                ]

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

    def check_writable(self) -> None:
        """See BlobStore.check_writable. The object stays, and is always the same."""
        with _s3_errors(self.bucket):
            self._once.put_object(Bucket=self.bucket, Key=f"{self.prefix}ready", Body=b"ready?")

    def prepare(self) -> None:
        """See BlobStore.prepare."""
        with _s3_errors(self.bucket):
            listed = self.client.list_buckets()["Buckets"]
            if self.bucket not in {bucket["Name"] for bucket in listed}:
                self.client.create_bucket(Bucket=self.bucket)


def s3_client(settings: StorageSettings, *, attempts: int = 3) -> Any:
    """Create a boto3 client with the service's endpoint, credentials, timeouts and retries."""
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


class _Object(io.RawIOBase):
    """An object from `offset` on; each read requests a range of its bytes."""

    def __init__(self, store: S3Store, key: str, offset: int) -> None:
        self._client, self._key, self._next = store.client, key, offset
        self._of = {"Bucket": store.bucket, "Key": store.prefix + key}
        with _s3_errors(key):
            self._size = int(self._client.head_object(**self._of)["ContentLength"])

    def readable(self) -> bool:
        """Return True."""
        return True

    def readall(self) -> bytes:
        """Read the rest, in pieces larger than the few bytes that a raw stream asks for."""
        return b"".join(iter(lambda: self.read(RANGE_BYTES), b""))

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as there is data; 0 at the end."""
        end = min(self._next + len(buffer), self._size)
        if end <= self._next:
            return 0
        data = self._read(f"bytes={self._next}-{end - 1}")
        buffer[: len(data)] = data
        self._next += len(data)
        return len(data)

    def _read(self, wanted: str) -> bytes:
        # The client tries requests again, but not bodies that break off.
        for attempt in range(1, RANGE_TRIES + 1):
            try:
                with _s3_errors(self._key):
                    return bytes(self._client.get_object(**self._of, Range=wanted)["Body"].read())
            except StorageError:
                if attempt == RANGE_TRIES:
                    raise
        raise AssertionError("the last attempt returns or raises")


@contextmanager
def _s3_errors(key: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in _MISSING:
            raise NotFound(f"no such blob: {key!r}") from error
        metrics.STORE_ERRORS.inc()
        raise StorageError(f"the blob store answered {code}") from error
    except (BotoCoreError, Boto3Error, OSError) as error:
        metrics.STORE_ERRORS.inc()
        raise StorageError(f"the blob store is unavailable: {type(error).__name__}") from error
