"""Responses of the service as frozen dataclasses."""

import warnings
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, TypeVar

# Where releases up to 0.2 had them.
from idefiq.errors import ApiError as ApiError
from idefiq.errors import IdefiqError as IdefiqError
from idefiq.errors import WaitTimeout as WaitTimeout

T = TypeVar("T")

#: An item as it is submitted, or defaults of the same shape.
Item = dict[str, Any]

#: Issues that the service finds in answers, as help texts list them.
ISSUES = "cut, empty, prompt_echoed, refusal, repetition, wrong_language, or any"
#: Generation options that apply to sampling only.
SAMPLING_OPTIONS = frozenset({"temperature", "top_p", "top_k", "min_p", "seed"})
FINAL_STATES = frozenset({"succeeded", "finished_with_errors", "cancelled", "expired"})


@dataclass(frozen=True, slots=True)
class Counts:
    """Items by state; total is the sum of the others."""

    total: int
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int

    @property
    def finished(self) -> int:
        """Items in a final state."""
        return self.succeeded + self.failed + self.cancelled


@dataclass(frozen=True, slots=True)
class JobUsage:
    """What the answered items of a job have used.

    Attributes:
        cached: Items answered from the answer cache; their tokens are not counted.
        device_seconds: Time on the device; items that run side by side share it. None if a release
            that did not count has worked for the job.
        cost: By the service's prices, None if it has none for the model.
        currency: Of the cost.
    """

    cached: int = 0
    images: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    device_seconds: float | None = 0.0
    cost: float | None = None
    currency: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """A job when it was requested.

    Attributes:
        pause_reason: Of a paused job: "requested", or "issues" or "model_changed" if it has paused
            itself.
        answers_with_issues: Answers with at least one issue.
        issues: Answers by issue, such as {"cut": 3}.
    """

    id: str
    state: str
    model: str
    name: str
    priority: int
    counts: Counts
    created_at: datetime
    expires_at: datetime | None
    finished_at: datetime | None
    items_per_second: float | None
    eta_seconds: float | None
    pause_reason: str | None = None
    answers_with_issues: int = 0
    issues: dict[str, int] = field(default_factory=dict)
    usage: JobUsage = JobUsage()

    @property
    def is_final(self) -> bool:
        """True if the job has finished, in any way."""
        return self.state in FINAL_STATES

    @classmethod
    def of(cls, body: dict[str, Any]) -> "Job":
        """Build from the service's JSON."""
        return cls(
            id=body["id"],
            state=body["state"],
            model=body["model"],
            name=body["name"],
            priority=body.get("priority", 0),
            expires_at=_time(body["expires_at"]) if body.get("expires_at") else None,
            counts=Counts(**body["counts"]),
            created_at=_time(body["created_at"]),
            finished_at=_time(body["finished_at"]) if body["finished_at"] else None,
            items_per_second=body["items_per_second"],
            eta_seconds=body["eta_seconds"],
            pause_reason=body.get("pause_reason"),  # a service of release 0.2 has none of these
            answers_with_issues=body.get("answers_with_issues", 0),
            issues=body.get("issues", {}),
            usage=_known(JobUsage, body.get("usage", {})),
        )


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key; `key` is set only if it was just created."""

    id: str
    owner: str
    note: str
    holder: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    key: str | None

    @classmethod
    def of(cls, body: dict[str, Any]) -> "ApiKey":
        """Build from the service's JSON."""
        times = {
            name: _time(body[name]) if body[name] else None
            for name in ("expires_at", "revoked_at", "last_used_at")
        }
        return cls(
            id=body["id"],
            owner=body["owner"],
            note=body["note"],
            holder=body.get("holder", ""),  # a service of release 0.2 has none
            scopes=body["scopes"],
            created_at=_time(body["created_at"]),
            key=body.get("key"),
            **times,
        )


@dataclass(frozen=True, slots=True)
class Result:
    """Outcome of one item.

    Attributes:
        index: Its place in the submission, from 0.
        custom_id: The caller's own id for it.
        state: "succeeded", "failed" or "cancelled".
        images: References of its images in the service's store.
        answer: The text, or None.
        detail: The whole answer: text, finish reason, token counts, template, issues, and what
            else the kind has: label, scores, seed, prompt.
        error_code: Stable name of the error, or None.
        error: One sentence that says what is wrong, or None.
    """

    index: int
    custom_id: str | None
    state: str
    images: list[str]
    answer: str | None
    detail: dict[str, Any] | None
    error_code: str | None
    error: str | None

    @property
    def label(self) -> str | None:
        """Label of a `classify` item, None if the answer names none."""
        return (self.detail or {}).get("label")

    @property
    def issues(self) -> list[str]:
        """Codes of the issues that the service found in the answer, such as "repetition"."""
        return list((self.detail or {}).get("issues", ()))

    @property
    def data(self) -> Any:
        """The value of a structured answer, None if it was cut or is not structured."""
        return (self.detail or {}).get("data")

    @property
    def text(self) -> str | None:
        """The label of a `classify` item, and otherwise the answer."""
        return self.label if "label" in (self.detail or {}) else self.answer

    @property
    def said(self) -> str | None:
        """The name of `text` in release 0.1."""
        warnings.warn("Result.said is called Result.text now", DeprecationWarning, stacklevel=2)
        return self.text

    @classmethod
    def of(cls, body: dict[str, Any]) -> "Result":
        """Build from the service's JSON."""
        answer, error = body["answer"], body["error"] or {}
        return cls(
            index=body["index"],
            custom_id=body["custom_id"],
            state=body["state"],
            images=body["images"],
            answer=answer["text"] if answer else None,
            detail=answer,
            error_code=error.get("code"),
            error=error.get("message"),
        )


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a job.

    Attributes:
        name: "counts" if the job has changed, "item" for a result, "end" when it has finished.
        id: Where to go on from, after this event.
        job: With "counts" and "end".
        result: With "item".
    """

    name: str
    id: str | None
    job: Job | None
    result: Result | None


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the service.

    Attributes:
        structured: True if its answers can have the structure of a schema, choices or a pattern.
    """

    name: str
    family: str
    kinds: list[str]
    license: str
    note: str
    ready: bool
    workers: int
    languages: list[str]
    alias_of: str | None = None
    structured: bool = False

    @property
    def licence(self) -> str:
        """The name of `license` in release 0.1."""
        warnings.warn("Model.licence is called Model.license now", DeprecationWarning, stacklevel=2)
        return self.license

    @classmethod
    def of(cls, body: dict[str, Any]) -> "Model":
        """Build from the service's JSON."""
        card = body["card"]
        return cls(
            name=body.get("id", card["name"]),
            family=card["family"],
            kinds=card["kinds"],
            license=card["license"] if "license" in card else card["licence"],
            note=card["note"],
            ready=body["state"] == "ready",
            workers=body["workers"],
            languages=card.get("languages", []),
            alias_of=None if body.get("id") in (None, card["name"]) else card["name"],
            structured=card.get("structured", False),
        )


def _known(kind: type[T], body: dict[str, Any]) -> T:
    """Build a dataclass from the fields that it knows; a later service may send more."""
    names = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in body.items() if name in names})


_time = datetime.fromisoformat


def __getattr__(name: str) -> Any:
    """Look up names of release 0.1, which release 0.3 will not have any more."""
    if name == "TooLong":
        warnings.warn("TooLong is called WaitTimeout now", DeprecationWarning, stacklevel=2)
        return WaitTimeout
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
