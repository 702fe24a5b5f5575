"""Jobs whose items are the images below an `s3://bucket/prefix`, listed page by page.

submit ─▶ list a page ─▶ items ─▶ … ─▶ no more ─▶ seal       claimable only then, like any job
"""

from collections.abc import Sequence
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from db.blobs.s3 import s3_client
from db.queue.submissions import NewItem
from db.settings import StorageSettings
from db.vocabulary.errors import NotFound, StorageError

#: Keys asked for at once; S3 gives no more.
PAGE_KEYS = 1_000
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif", ".heic", ".heif")
_GONE = {"NoSuchBucket", "AccessDenied", "403", "404"}


class Buckets:
    """Lists buckets that owners were granted; the submission has checked the grant."""

    def __init__(self, record: StorageSettings) -> None:
        self._s3: Any = s3_client(record)
        self._own_bucket = record.s3_bucket

    def images(self, source: str, after: str | None) -> tuple[list[NewItem], str | None]:
        """Return the images of the next page of a bucket.

        Args:
            source: `s3://bucket/prefix`.
            after: The last key of the page before.

        Returns:
            Items, and the last key looked at; None if there is no more.

        Raises:
            NotFound: The bucket is not there, or may not be listed.
            StorageError: S3 is away.
        """
        bucket, _, prefix = source.removeprefix("s3://").partition("/")
        if bucket == self._own_bucket:
            raise NotFound(f"{source} cannot be listed: it is the service's own store")
        position = {"StartAfter": after} if after else {}
        try:
            found = self._s3.list_objects_v2(
                Bucket=bucket, Prefix=prefix, MaxKeys=PAGE_KEYS, **position
            )
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in _GONE:
                raise NotFound(f"{source} cannot be listed: S3 answered {code}") from error
            raise StorageError(f"S3 answered {code}") from error
        except (BotoCoreError, OSError) as error:
            raise StorageError(f"S3 failed: {type(error).__name__}") from error
        keys = [str(each["Key"]) for each in found.get("Contents", ())]
        return _items(bucket, prefix, keys), keys[-1] if keys else None


def _items(bucket: str, prefix: str, keys: Sequence[str]) -> list[NewItem]:
    """Make an item for each image, named by what follows the prefix."""
    return [
        NewItem({"images": [f"s3://{bucket}/{key}"]}, key.removeprefix(prefix) or key)
        for key in keys
        if key.lower().endswith(SUFFIXES) and "\0" not in key
    ]
