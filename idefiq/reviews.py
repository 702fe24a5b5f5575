"""Reviews of alternative text as the service answers them, and requests about them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from idefiq.protocol import Call, ListPage, job_id
from idefiq.types import Job

PAGE = 500


@dataclass(frozen=True, slots=True)
class Review:
    """A draft of alternative text, and its decision.

    Attributes:
        index: The item's place in its job, from 0.
        custom_id: The caller's own id for the item.
        page: Where the image is, as the caller said it.
        state: "unreviewed", "accepted", "edited", "decorative" or "rejected".
        text: As of now; empty for a decorative image.
        revision: Grows with each decision; say which one you saw when you decide.
        reviewer: Who decided last.
        images: References of its images in the service's store.
        context: What the item said of the page around its image.
        draft: The model's draft: text, language, confidence, issues, rewritten.
        history: Every step so far, of a single review.
    """

    job: str
    index: int
    custom_id: str | None
    page: str
    state: str
    text: str | None
    long_description: str | None
    language: str | None
    revision: int
    reviewer: str | None
    reviewed_at: datetime | None
    images: list[str]
    context: dict[str, Any]
    draft: dict[str, Any]
    history: list[dict[str, Any]]

    @classmethod
    def of(cls, body: dict[str, Any]) -> "Review":
        """Build from the service's JSON."""
        known = {name: body[name] for name in cls.__dataclass_fields__ if name in body}
        at, draft = body["reviewed_at"], known["draft"]
        if "issues" not in draft:  # a service of release 0.1
            draft |= {"confidence": draft["certainty"], "issues": draft["objections"]}
        return cls(
            **{"history": [], **known, "reviewed_at": datetime.fromisoformat(at) if at else None}
        )


def wanted(
    job: Job | str | None, states: Sequence[str], custom_ids: Sequence[str], order: str
) -> dict[str, Any]:
    """Build the query for some reviews."""
    states = [states] if isinstance(states, str) else list(states)
    query: dict[str, Any] = {"order": order, "state": states, "custom_id": list(custom_ids)}
    return query if job is None else {**query, "job": job_id(job)}


def page(wanted: dict[str, Any], after: str | None) -> Call[ListPage[Review]]:
    """Request a page of the queue."""
    query = {**wanted, "limit": PAGE, **({"after": after} if after else {})}
    return Call(
        "GET",
        "/v1/reviews",
        lambda body: ListPage([Review.of(one) for one in body["data"]], body["next"]),
        {"params": query},
    )


def get(job: Job | str, index: int) -> Call[Review]:
    """Request one review with its history."""
    return Call("GET", f"/v1/jobs/{job_id(job)}/items/{index}/review", Review.of)


def decide(job: Job | str, index: int, action: str, **fields: Any) -> Call[Review]:
    """Send a decision. Never repeated: the second time would conflict with the first."""
    body = {
        "action": action,
        **{name: value for name, value in fields.items() if value is not None},
    }
    path = f"/v1/jobs/{job_id(job)}/items/{index}/review"
    return Call("POST", path, Review.of, {"json": body}, repeatable=False)
