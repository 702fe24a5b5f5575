"""JSON of requests and responses around the items, which db.vocabulary.requests defines."""

import base64
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from fastapi import Path, Query
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    model_validator,
)

from api.prices import cost_of
from api.settings import MAX_ITEMS, ApiSettings
from db.queue.answer_issues import ANY, MIN_ANSWERS_TO_PAUSE
from db.queue.jobs import Job
from db.vocabulary.answer_issues import AnswerIssue
from db.vocabulary.errors import RequestError
from db.vocabulary.field_types import no_nul
from db.vocabulary.model_info import ModelInfo
from db.vocabulary.requests import ItemIn, Options, Request
from db.vocabulary.states import ModelChanged

Name = Annotated[str, StringConstraints(max_length=200), AfterValidator(no_nul)]
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


IssueFilter = Annotated[
    list[Literal[ANY, *AnswerIssue]] | None,  # type: ignore[valid-type]
    Query(
        description="Only answers with one of these issues; `any` stands for all",
        max_length=len(AnswerIssue) + 1,
    ),
]


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
    pause_on_issues: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None,
        description="Pause the job when a larger share of its answers than this has issues, once"
        f" it has {MIN_ANSWERS_TO_PAUSE} answers",
    )
    model_changed: ModelChanged = Field(
        ModelChanged.PAUSE,
        description="What the job does when its model is served in another variant (checkpoint,"
        " adapter, template or options) than the one that has answered so far",
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


class RetryIn(BaseModel):
    """What is different in a retry."""

    model_config = ConfigDict(extra="forbid")

    options: Options | None = Field(
        None,
        description="Laid over the options of each item. A sampling option turns sampling on",
    )


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


class JobUsage(BaseModel):
    """What the answered items of a job have used."""

    cached: int = Field(description="Items answered from the answer cache; their tokens count not")
    images: int
    prompt_tokens: int
    completion_tokens: int
    device_seconds: float | None = Field(
        description="Time on the device; items side by side share it. null if release 0.2, which"
        " did not count, has worked for the job"
    )
    cost: float | None = Field(
        description="By the prices of the settings; null if there are none, or nothing was counted"
    )
    currency: str


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
    pause_reason: str | None = Field(
        description="requested; issues: see `pause_on_issues`; or model_changed"
    )
    pause_on_issues: float | None
    model_changed: str = Field(description="pause or continue, if another variant is served")
    variant: str | None = Field(description="Variant of the model to which the job is bound")
    answers_with_issues: int
    issues: dict[str, int] = Field(description="Answers with each issue, such as `cut`")
    usage: JobUsage
    results_url: str
    results_file_url: str | None = Field(description="Set when the results object is written")

    @classmethod
    def of(cls, job: Job, settings: ApiSettings, now: datetime | None = None) -> "JobOut":
        """Build from a job as it is at `now`, with its cost by the prices of the settings."""
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
            pause_reason=job.pause_reason,
            pause_on_issues=job.pause_on_issues,
            model_changed=job.model_changed,
            variant=job.variant,
            answers_with_issues=job.answers_with_issues,
            issues=job.issue_counts,
            usage=_usage(job, settings),
            results_url=f"/v1/jobs/{job.id}/results",
            results_file_url=f"/v1/jobs/{job.id}/results.jsonl" if job.results_key else None,
        )


def _usage(job: Job, settings: ApiSettings) -> JobUsage:
    used = job.usage
    return JobUsage(
        cached=job.cached,
        images=job.images,
        prompt_tokens=job.prompt_tokens,
        completion_tokens=job.completion_tokens,
        device_seconds=used and round(used.device_seconds, 6),
        cost=used and cost_of(used, job.model, settings.prices),
        currency=settings.currency,
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
