"""JSON of requests and responses around db.requests, which defines the items themselves."""

import base64
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from fastapi import Path, Query
from pydantic import (
    AfterValidator,
    AnyHttpUrl,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    model_validator,
)

from api.settings import MAX_ITEMS
from db import webhooks
from db.errors import RequestError
from db.jobs import Job
from db.model_info import ModelInfo
from db.requests import Request, no_nul
from db.webhooks import Delivery, Webhook

Name = Annotated[str, StringConstraints(max_length=200), AfterValidator(no_nul)]
CustomId = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(no_nul)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Priority = Annotated[int, Field(ge=-10, le=10)]
Source = Annotated[
    str,
    StringConstraints(pattern=r"^s3://[^\s/]+/", max_length=1_200),
    AfterValidator(no_nul),
]
#: Most entries of a page.
PAGE_LIMIT = 1_000
Limit = Annotated[int, Query(ge=1, le=PAGE_LIMIT)]
After = Annotated[str | None, Query(description="`next` of the page before")]
Index = Annotated[int, Path(ge=0, lt=2**53)]
Digests = Annotated[list[Digest], Field(max_length=10_000), FailFast()]


class ItemIn(Request):
    """An item: its request, and the caller's own id."""

    custom_id: CustomId | None = None


class JobIn(BaseModel):
    """A job without its items; the first line of a stream may hold it as {"job": …}."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="Which model; may be left out if there is one")
    name: Name = Field("", description="For people; shown in lists")
    defaults: Request = Field(Request(), description="Laid under every item")
    priority: Priority = Field(
        0, description="Each step is worth ten minutes of waiting, among jobs of the same owner"
    )
    expires_after_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = Field(
        None, description="Items that are not running by then are cancelled"
    )


class FirstLine(BaseModel):
    """The first line of a stream, if it holds the job."""

    model_config = ConfigDict(extra="forbid")

    job: JobIn


class SubmissionIn(JobIn):
    """A complete job as JSON."""

    items: Annotated[list[ItemIn], Field(max_length=MAX_ITEMS), FailFast()] = Field(
        [], description="What is asked"
    )
    source: Source | None = Field(
        None,
        description="Instead of items: s3://bucket/prefix, whose images become items, named by what"
        " follows the prefix",
    )

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.source is None and "items" not in self.model_fields_set:
            raise ValueError("items or source is required")
        return self


class JobPatch(BaseModel):
    """Fields of a job that can be changed."""

    model_config = ConfigDict(extra="forbid")

    priority: Priority


class Counts(BaseModel):
    """Items by state; total is the sum of the others."""

    total: int
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int


class JobOut(BaseModel):
    """A job."""

    id: str
    state: str
    model: str
    name: str
    priority: int
    counts: Counts
    created_at: datetime
    expires_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    items_per_second: float | None = Field(description="Average since the job started")
    eta_seconds: float | None = Field(description="Time left at that rate")
    results_url: str
    results_file_url: str | None = Field(description="Set when the results object is written")

    @classmethod
    def of(cls, job: Job, now: datetime | None = None) -> "JobOut":
        """Build from a job as it is at `now`."""
        done = job.succeeded + job.failed + job.cancelled
        rate = _rate(job, done, now or datetime.now(UTC))
        left = job.total - done if job.sealed_at else None
        return cls(
            id=job.id,
            state=job.state.value,
            model=job.model,
            name=job.name,
            priority=job.priority,
            expires_at=job.expires_at,
            counts=Counts(
                total=job.total,
                queued=job.queued,
                running=job.running,
                succeeded=job.succeeded,
                failed=job.failed,
                cancelled=job.cancelled,
            ),
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            items_per_second=rate,
            eta_seconds=left / rate if left is not None and rate else None,
            results_url=f"/v1/jobs/{job.id}/results",
            results_file_url=f"/v1/jobs/{job.id}/results.jsonl" if job.results_key else None,
        )


def _rate(job: Job, done: int, now: datetime) -> float | None:
    if not job.started_at or not done:
        return None
    seconds = ((job.finished_at or now) - job.started_at).total_seconds()
    return done / max(seconds, 0.001)


class JobPage(BaseModel):
    """Jobs, newest first."""

    data: list[JobOut]
    has_more: bool
    next: str | None = Field(description="Cursor of the next page")


class ResultPage(BaseModel):
    """A page of results in the order in which items finished."""

    data: list[dict[str, Any]]
    complete: bool = Field(description="No more results will come after this page")
    next: str = Field(description="Cursor to go on from, also when there is nothing more yet")


class ImageOut(BaseModel):
    """An uploaded image."""

    image: str = Field(description="Its reference, for `images` of an item")
    filename: str
    size_bytes: int


class ImagesOut(BaseModel):
    """Uploaded images, in the order of the request."""

    data: list[ImageOut]


class PresignOne(BaseModel):
    """An image that will be uploaded straight to the store."""

    model_config = ConfigDict(extra="forbid")

    sha256: Digest
    size_bytes: Annotated[int, Field(ge=1)]


PresignIn = Annotated[list[PresignOne], Field(min_length=1, max_length=1_000), FailFast()]


class PresignedOut(BaseModel):
    """A URL for the bytes of an image; intake rejects bytes with another digest."""

    image: str
    url: str
    method: str = "PUT"
    expires_seconds: int


class PresignOut(BaseModel):
    """URLs for several images, in the order of the request."""

    data: list[PresignedOut]


class ModelOut(BaseModel):
    """A model and its state; the first fields are those of OpenAI's API."""

    id: str
    object: str = "model"
    created: int
    owned_by: str
    card: ModelInfo
    state: str = Field(description="ready, or offline when no worker has it loaded")
    workers: int


class ModelsOut(BaseModel):
    """All models that engines have ever offered."""

    object: str = "list"
    data: list[ModelOut]


class WebhookIn(BaseModel):
    """A webhook to create: its URL and events."""

    model_config = ConfigDict(extra="forbid")

    url: Annotated[AnyHttpUrl, Field(max_length=2_000)]
    events: Annotated[list[Literal[*webhooks.EVENTS]], Field(max_length=20)] = Field(  # type: ignore[valid-type]
        [], description="All, if there are none"
    )


class WebhookPatch(BaseModel):
    """Fields of a webhook that can be changed."""

    model_config = ConfigDict(extra="forbid")

    enabled: bool


class WebhookOut(BaseModel):
    """A webhook."""

    id: str
    url: str
    events: list[str]
    enabled: bool
    created_at: datetime

    @classmethod
    def of(cls, webhook: Webhook) -> "WebhookOut":
        """Build without the secret."""
        return cls(
            id=webhook.id,
            url=webhook.url,
            events=webhook.events.split(),
            enabled=webhook.disabled_at is None,
            created_at=webhook.created_at,
        )


class WebhookWithSecret(WebhookOut):
    """A webhook with its secret, when either was just created."""

    secret: str = Field(description="whsec_…, as Standard Webhooks has it; shown this once")


class DeliveryOut(BaseModel):
    """A delivery of a webhook and its attempts."""

    id: str = Field(description="The header `webhook-id`, the same in every attempt")
    event: str
    subject: str = Field(description="The job or batch that has ended")
    created_at: datetime
    attempts: int
    next_attempt_at: datetime | None
    delivered_at: datetime | None
    status: int | None = Field(description="What the receiver answered last")
    problem: str | None

    @classmethod
    def of(cls, delivery: Delivery) -> "DeliveryOut":
        """Build from a delivery."""
        return cls(
            id=delivery.id,
            event=delivery.event,
            subject=delivery.subject,
            created_at=delivery.created_at,
            attempts=delivery.attempts,
            next_attempt_at=delivery.due_at,
            delivered_at=delivery.delivered_at,
            status=delivery.status,
            problem=delivery.problem,
        )


class DeliveryPage(BaseModel):
    """Deliveries, newest first."""

    data: list[DeliveryOut]
    has_more: bool
    next: str | None = Field(description="Cursor of the next page")


def encode_cursor(value: str) -> str:
    """Encode a position as an opaque cursor."""
    return base64.urlsafe_b64encode(value.encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> str:
    """Decode a cursor.

    Raises:
        RequestError: It is not one of ours.
    """
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        return no_nul(base64.b64decode(padded, altchars=b"-_", validate=True).decode())
    except ValueError as error:
        raise RequestError(f"invalid cursor: {cursor!r}", field="after") from error
