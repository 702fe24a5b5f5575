"""Files and batches as OpenAI's clients write and read them. Times are seconds since 1970."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from db.openai.batch import Batch, BatchStatus
from db.openai.batches import part_id
from db.openai.files import File

_WINDOW_UNITS = {"m": 60, "h": 3_600, "d": 86_400}


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

    @classmethod
    def growing(cls, batch: Batch, file_id: str) -> Self:
        """Build from a running batch that will end with a file of this id."""
        part = file_id.rpartition("-")[2]
        return cls(
            id=file_id,
            bytes=0,
            created_at=int(batch.created_at.timestamp()),
            expires_at=None,
            filename=f"{batch.id}_{part}.jsonl",
            purpose="batch_output",
            status="uploaded",
        )


class ExpiresAfter(BaseModel):
    """When the files that a batch writes are deleted."""

    model_config = ConfigDict(extra="forbid")

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3_600, le=2_592_000)]


def _window(given: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]{0,3}[mhd]", given):
        raise ValueError(
            f"invalid window: {given!r}; expected minutes, hours or days, such as 30m, 24h, 7d"
        )
    return given


class BatchIn(BaseModel):
    """A batch to create."""

    model_config = ConfigDict(extra="forbid")

    input_file_id: str
    endpoint: Literal["/v1/chat/completions"]
    completion_window: Annotated[str, AfterValidator(_window)] = Field(
        description="Minutes, hours or days, such as 24h; then it expires, with what it has"
    )
    metadata: (
        Annotated[
            dict[
                Annotated[str, StringConstraints(max_length=64)],
                Annotated[str, StringConstraints(max_length=512)],
            ],
            Field(max_length=16),
        ]
        | None
    ) = None
    output_expires_after: ExpiresAfter | None = None

    @property
    def window_seconds(self) -> int:
        """Length of the completion window."""
        return int(self.completion_window[:-1]) * _WINDOW_UNITS[self.completion_window[-1]]


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
        has_files = job is not None or batch.finalized_at is None
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
            cancelling_at=_cancelling_at(batch),
            cancelled_at=ended if status is BatchStatus.CANCELLED else None,
            request_counts=RequestCounts(
                total=batch.lines,
                completed=job.succeeded if job else 0,
                failed=job.failed if job else 0,
            ),
            usage=_usage(batch.usage),
            metadata=batch.metadata,
            x_job_id=batch.job_id,
            x_output_file_id=part_id(batch.id, "output") if has_files else None,
            x_error_file_id=part_id(batch.id, "errors") if has_files else None,
        )


def _cancelling_at(batch: Batch) -> int | None:
    if batch.expired_at:
        return None
    return _seconds(batch.job.cancelled_at if batch.job else batch.cancelled_at)


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
