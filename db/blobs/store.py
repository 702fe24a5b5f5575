"""The blob store: bytes under keys, in a folder or in S3 (db/blobs/s3.py).

    OWNER/images/ab/abcdef…      an image, named by its SHA-256 within its owner
    OWNER/spool/ID.jsonl         a streamed submission, until it is imported
    OWNER/results/JOB.jsonl      the results of a finished job
    OWNER/files/ID               a file of OpenAI's interface

Writing the same key twice writes the same bytes. A reader sees nothing of a blob that is not whole;
one of S3 that is removed while it is read breaks off.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Protocol

from db.vocabulary.errors import ImageTooLarge


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


@dataclass(frozen=True, slots=True)
class Stored:
    """A blob as a listing shows it; its age is the time since it was written."""

    key: str
    size_bytes: int
    age_seconds: float


class BlobStore(Protocol):
    """Interface of both stores. Every method raises StorageError if the store is unavailable."""

    def put(self, key: str, source: IO[bytes]) -> None:
        """Store what `source` still holds; durable when it returns."""

    def put_many(self, sources: Mapping[str, IO[bytes]]) -> None:
        """Store what each source still holds under its key; all durable when it returns."""

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

    def pages(self) -> Iterator[list[Stored]]:
        """Yield all blobs, some hundred at a time; one written meanwhile may be missing."""

    def presign_put(self, key: str, seconds: int, size_bytes: int) -> str | None:
        """Return a URL for a PUT of that many bytes by a client, or None if unsupported."""

    def check_writable(self) -> None:
        """Write a few bytes and read nothing; raises StorageError if that is impossible."""

    def prepare(self) -> None:
        """Create the bucket or folder if it is missing. Safe to repeat."""


def check_size(size: int, most: int | None) -> None:
    """Reject a blob of `size` bytes if it is larger than `most`.

    Raises:
        ImageTooLarge: It has more.
    """
    if most is not None and size > most:
        raise ImageTooLarge(f"{size} bytes; the limit is {most}")
