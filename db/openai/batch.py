"""A batch of OpenAI's API, and its status.

    in_progress ─▶ finalizing ─▶ completed                    failed: the input has mistakes,
          │  └─cancel─▶ cancelling ─▶ cancelled               and there is no job
          └──window over──▶ finalizing ─▶ expired

The status is derived from the batch and its job, never stored.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from db.queue.jobs import Job


class BatchStatus(StrEnum):
    """States of a batch, as OpenAI's clients know them."""

    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch, and its job unless its input had errors."""

    id: str
    owner_id: int
    job_id: str | None
    model: str | None
    input_file_id: str
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
    finalized_at: datetime | None
    job: Job | None

    @property
    def status(self) -> BatchStatus:
        """Derive the status as the module describes."""
        if self.job is None:
            return BatchStatus.FAILED
        if self.expired_at:
            return BatchStatus.EXPIRED if self.finalized_at else BatchStatus.FINALIZING
        if self.job.cancelled_at:
            return BatchStatus.CANCELLED if self.finalized_at else BatchStatus.CANCELLING
        if self.finalized_at:
            return BatchStatus.COMPLETED
        return BatchStatus.FINALIZING if self.job.finished_at else BatchStatus.IN_PROGRESS


@dataclass(frozen=True, slots=True)
class NewBatch:
    """A batch to be created.

    Attributes:
        lines: Of the input file, the empty ones left out.
        window_seconds: After that it expires.
        errors: What is wrong with the input; None makes a batch with a job.
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
    lines: int = 0
    model: str | None = None
    errors: list[dict[str, Any]] | None = None
