"""Requests about reviews of alternative text, for both clients."""

from collections.abc import Sequence
from typing import Any

from idefiq.protocol import Call, ListPage, job_id
from idefiq.types import Job, Review

PAGE = 500


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
