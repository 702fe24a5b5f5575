"""Files and batches as OpenAI's clients read them. Times are seconds since 1970."""

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel

from db.openai.batch import Batch, BatchStatus
from db.openai.batches import part_id
from db.openai.files import File


def _seconds(at: datetime | None) -> int | None:
    return int(at.timestamp()) if at else None


class FileOut(BaseModel):
    """A file."""

    id: str
    object: str = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: str = "processed"

    @classmethod
    def of(cls, file: File) -> Self:
        """Build from a file."""
        return cls(
            id=file.id,
            bytes=file.size_bytes,
            created_at=int(file.created_at.timestamp()),
            expires_at=_seconds(file.expires_at),
            filename=file.filename,
            purpose=file.purpose,
        )


class RequestCounts(BaseModel):
    """Lines of a batch by outcome."""

    total: int
    completed: int
    failed: int


class BatchOut(BaseModel):
    """A batch. Fields that begin with `x_` are extensions of this service."""

    id: str
    object: str = "batch"
    endpoint: str
    model: str | None
    errors: dict[str, Any] | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: dict[str, Any] | None
    metadata: dict[str, str] | None
    #: The job behind it, for everything that jobs can do.
    x_job_id: str | None
    #: The files from the beginning on: their content is what there is so far.
    x_output_file_id: str | None
    x_error_file_id: str | None

    @classmethod
    def of(cls, batch: Batch) -> Self:
        """Build from a batch as it is now."""
        job, status = batch.job, batch.status
        ended = _seconds(batch.finalized_at)
        return cls(
            id=batch.id,
            endpoint=batch.endpoint,
            model=batch.model,
            errors={"object": "list", "data": batch.errors} if batch.errors else None,
            input_file_id=batch.input_file_id,
            completion_window=batch.completion_window,
            status=status.value,
            output_file_id=batch.output_file_id,
            error_file_id=batch.error_file_id,
            created_at=int(batch.created_at.timestamp()),
            in_progress_at=_seconds(job.created_at) if job else None,
            expires_at=int(batch.expires_at.timestamp()),
            finalizing_at=_seconds(job.finished_at) if job else None,
            completed_at=ended if status is BatchStatus.COMPLETED else None,
            failed_at=ended if status is BatchStatus.FAILED else None,
            expired_at=_seconds(batch.expired_at),
            cancelling_at=_seconds(job.cancelled_at) if job and not batch.expired_at else None,
            cancelled_at=ended if status is BatchStatus.CANCELLED else None,
            request_counts=RequestCounts(
                total=batch.lines,
                completed=job.succeeded if job else 0,
                failed=job.failed if job else 0,
            ),
            usage=_usage(batch.usage),
            metadata=batch.metadata,
            x_job_id=batch.job_id,
            x_output_file_id=part_id(batch.id, "output") if job else None,
            x_error_file_id=part_id(batch.id, "errors") if job else None,
        )


def _usage(tokens: dict[str, Any] | None) -> dict[str, Any] | None:
    if tokens is None:
        return None
    return {
        "input_tokens": tokens["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": tokens["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tokens["total_tokens"],
    }


class FilePage(BaseModel):
    """A page of files, as in OpenAI's lists."""

    object: str = "list"
    data: list[FileOut]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, data: list[FileOut], *, more: bool) -> Self:
        """Build a page."""
        return cls(data=data, first_id=_id(data[:1]), last_id=_id(data[-1:]), has_more=more)


class BatchPage(BaseModel):
    """A page of batches, as in OpenAI's lists."""

    object: str = "list"
    data: list[BatchOut]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, data: list[BatchOut], *, more: bool) -> Self:
        """Build a page."""
        return cls(data=data, first_id=_id(data[:1]), last_id=_id(data[-1:]), has_more=more)


def _id(shown: list[FileOut] | list[BatchOut]) -> str | None:
    return shown[0].id if shown else None
