"""From an image reference to bytes, by the rules of its form.

    blob:SHA256        the owner's own image, digest verified
    http(s)://…        the guarded fetcher
    s3://bucket/key    below a grant of the owner, never the service's own bucket

`data:` references became blobs when they were submitted.
"""

from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from db import owners
from db.blobs.s3 import s3_client
from db.blobs.store import BlobStore
from db.images.image_bytes import read_image
from db.settings import StorageSettings
from db.sql.database import Database
from db.vocabulary.errors import (
    FetchFailed,
    ImageForbidden,
    ImageNotFound,
    ImageTooLarge,
)
from workers.intake.fetch import Fetcher

_MISSING = {"NoSuchKey", "NoSuchBucket", "404", "NotFound"}
_DENIED = {"AccessDenied", "403", "Forbidden"}


class Sources:
    """Reads references of all forms.

    Args:
        max_bytes: Largest image.
    """

    def __init__(
        self,
        database: Database,
        store: BlobStore,
        fetcher: Fetcher,
        record: StorageSettings,
        max_bytes: int,
    ) -> None:
        self._database, self._store, self._fetcher = database, store, fetcher
        self._own_bucket = record.s3_bucket
        self._max_bytes = max_bytes
        self._s3: Any = s3_client(record)

    def host_of(self, reference: str) -> str | None:
        """Return the host that a reference is fetched from first, if it is a stranger's."""
        is_url = reference.startswith(("http:", "https:"))
        return self._fetcher.host_of(reference) if is_url else None

    def read(self, owner_id: int, reference: str) -> bytes:
        """Return the bytes behind a reference, for this owner.

        Raises:
            ItemError: They can never be read; the subclass says why.
            FetchFailed: They may be readable later.
            StorageError: Our own store is away.
            HostBusy: Its host has no free turn now.
        """
        form, _, rest = reference.partition(":")
        if form == "blob":
            return read_image(self._database, self._store, owner_id, rest, self._max_bytes)
        if form == "s3":
            bucket, _, key = rest.removeprefix("//").partition("/")
            return self._read_s3(owner_id, bucket, key)
        return self._fetcher.fetch(reference)

    def _read_s3(self, owner_id: int, bucket: str, key: str) -> bytes:
        with self._database.snapshot() as transaction:
            granted = owners.may_read(transaction, owner_id, bucket, key)
        if not granted or bucket == self._own_bucket:
            raise ImageForbidden(f"s3://{bucket}/{key} is not granted to this owner")
        try:
            found = self._s3.get_object(Bucket=bucket, Key=key)
            if found["ContentLength"] > self._max_bytes:
                raise ImageTooLarge(f"more than {self._max_bytes} bytes")
            data: bytes = found["Body"].read()
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in _MISSING:
                raise ImageNotFound(f"s3://{bucket}/{key} does not exist") from error
            if code in _DENIED:
                raise ImageForbidden(f"s3://{bucket}/{key} may not be read") from error
            raise FetchFailed(f"S3 answered {code}") from error
        except (BotoCoreError, OSError) as error:
            raise FetchFailed(f"S3 failed: {type(error).__name__}") from error
        return data
