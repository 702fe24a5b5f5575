"""A batch of OpenAI's API, and its status.

    validating ─▶ in_progress ─▶ finalizing ─▶ completed
     │   └─mistakes─▶ failed │
     ├─cancel──▶ cancelled   ├─cancel─▶ cancelling ─▶ cancelled
     └─window over─▶ expired └─window over─▶ finalizing ─▶ expired

It has a job once its input file is checked and has no mistakes. The status is derived from the
batch and its job, never stored.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from db.queue.jobs import Job


class BatchStatus(StrEnum):
    """States of a batch, as OpenAI's clients know them."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch, and its job once its input file is checked and has no mistakes.

    Attributes:
        input_bytes: Size of the input file.
        lines: Of the input file, the empty ones left out; 0 until it is checked.
        cancelled_at: When it was cancelled before it had a job.
        traceparent: Of the request that created it.
    """

    id: str
    owner_id: int
    job_id: str | None
    model: str | None
    input_file_id: str
    input_bytes: int
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None
    body_digest: str | None
    lines: int
    errors: list[dict[str, Any]] | None
    output_expires_seconds: int | None
    output_file_id: str | None
    error_file_id: str | None
    usage: dict[str, Any] | None
    created_at: datetime
    expires_at: datetime
    expired_at: datetime | None
    cancelled_at: datetime | None
    finalized_at: datetime | None
    traceparent: str | None
    job: Job | None

    @property
    def status(self) -> BatchStatus:
        """Derive the status as the module describes."""
        if self.job is None:
            return self._status_without_job()
        if self.expired_at:
            return BatchStatus.EXPIRED if self.finalized_at else BatchStatus.FINALIZING
        if self.job.cancelled_at:
            return BatchStatus.CANCELLED if self.finalized_at else BatchStatus.CANCELLING
        if self.finalized_at:
            return BatchStatus.COMPLETED
        return BatchStatus.FINALIZING if self.job.finished_at else BatchStatus.IN_PROGRESS

    def _status_without_job(self) -> BatchStatus:
        if self.errors:
            return BatchStatus.FAILED
        if self.cancelled_at:
            return BatchStatus.CANCELLED
        return BatchStatus.EXPIRED if self.expired_at else BatchStatus.VALIDATING


@dataclass(frozen=True, slots=True)
class NewBatch:
    """A batch to be created.

    Attributes:
        window_seconds: After that it expires.
        input_bytes: Size of the input file.
        request_key: What tells that the same is asked again.
        body_digest: Of the request: under the same key another is a mistake.
    """

    owner_id: int
    input_file_id: str
    endpoint: str
    completion_window: str
    window_seconds: int
    metadata: dict[str, str] | None = None
    output_expires_seconds: int | None = None
    request_key: str | None = None
    body_digest: str | None = None
    input_bytes: int = 0
