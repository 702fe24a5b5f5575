"""The review queue: drafts of alternative text and their state; see db/decisions.py.

The item's own answer never changes.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, insert, select, tuple_

from db.errors import NotFound
from db.requests import effective
from db.tables import items, jobs, reviews


class ReviewState(StrEnum):
    """State of a draft."""

    UNREVIEWED = "unreviewed"
    ACCEPTED = "accepted"
    EDITED = "edited"
    DECORATIVE = "decorative"
    REJECTED = "rejected"


class Order(StrEnum):
    """Order of the undecided reviews: by page, or least confident first."""

    PAGE = "page"
    CONFIDENCE = "confidence"

    @classmethod
    def _missing_(cls, value: object) -> "Order | None":
        return cls.CONFIDENCE if value == "doubt" else None  # its name in release 0.1


@dataclass(frozen=True, slots=True)
class Draft:
    """An item that was just answered with alternative text; `request` is its effective one."""

    item_id: int
    owner_id: int
    job_id: str
    request: dict[str, Any]
    answer: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Content:
    """Text of a review at one revision; empty for a decorative image."""

    state: ReviewState
    text: str | None
    long_description: str | None = None
    language: str | None = None


@dataclass(frozen=True, slots=True)
class Review:
    """A draft, its decisions, and what a person needs to judge it.

    Attributes:
        request: The item's effective request.
        answer: The item's answer, as the model gave it and the linter saw it.
    """

    item_id: int
    job_id: str
    ordinal: int
    custom_id: str | None
    page: str
    confidence: float
    content: Content
    revision: int
    reviewer: str | None
    reviewed_at: datetime | None
    images: list[str]
    request: dict[str, Any]
    answer: dict[str, Any]


_SELECT = (
    select(
        reviews,
        items.c.ordinal,
        items.c.custom_id,
        items.c.request,
        items.c.images,
        items.c.answer,
        jobs.c.defaults,
    )
    .join(items, items.c.id == reviews.c.item_id)
    .join(jobs, jobs.c.id == reviews.c.job_id)
    .where(jobs.c.deleted_at.is_(None))
)
_KEYS = {Order.PAGE: reviews.c.page, Order.CONFIDENCE: reviews.c.certainty}


def _confidence(alt_text: dict[str, Any]) -> float:
    """Read the confidence of an answer, which release 0.1 called certainty."""
    value = alt_text["confidence"] if "confidence" in alt_text else alt_text["certainty"]
    return float(value)


def queue(transaction: Connection, drafts: Sequence[Draft]) -> None:
    """Queue drafts, in the transaction that answers their items."""
    rows = [
        {
            "item_id": draft.item_id,
            "owner_id": draft.owner_id,
            "job_id": draft.job_id,
            "page": draft.request["alt_text"].get("page", ""),
            "certainty": _confidence(draft.answer["alt_text"]),
            "state": ReviewState.UNREVIEWED.value,
            "decided": 0,
            "text": draft.answer["text"],
            "long_description": draft.answer["alt_text"].get("long_description"),
            "language": draft.answer["alt_text"].get("language"),
        }
        for draft in drafts
    ]
    if rows:
        transaction.execute(insert(reviews), rows)


def page(  # noqa: PLR0913 - what a queue can be asked for
    transaction: Connection,
    owner_id: int,
    *,
    order: Order,
    states: Collection[ReviewState],
    job_id: str | None,
    custom_ids: Collection[str],
    beyond: Sequence[Any] | None,
    limit: int,
) -> list[Review]:
    """Return an owner's reviews, undecided first; `beyond` is `position` of the last one seen."""
    key = (reviews.c.decided, _KEYS[order], reviews.c.item_id)
    query = _SELECT.where(reviews.c.owner_id == owner_id)
    if states:
        query = query.where(reviews.c.state.in_([state.value for state in states]))
    if job_id is not None:
        query = query.where(reviews.c.job_id == job_id)
    if custom_ids:
        query = query.where(items.c.custom_id.in_(list(custom_ids)))
    if beyond is not None:
        query = query.where(tuple_(*key) > tuple_(*beyond))
    return [_review(row) for row in transaction.execute(query.order_by(*key).limit(limit))]


def position(review: Review, order: Order) -> list[Any]:
    """Position of a review in an order, for the next page."""
    key = review.page if order is Order.PAGE else review.confidence
    return [int(review.content.state is not ReviewState.UNREVIEWED), key, review.item_id]


def get(transaction: Connection, owner_id: int, job_id: str, ordinal: int) -> Review:
    """Return the review of one item.

    Raises:
        NotFound: There is no such item of this owner, or it is no draft of alternative text.
    """
    row = transaction.execute(
        _SELECT.where(
            reviews.c.owner_id == owner_id,
            reviews.c.job_id == job_id,
            items.c.ordinal == ordinal,
        )
    ).first()
    if row is None:
        raise NotFound(f"job {job_id} has no draft of alternative text number {ordinal}")
    return _review(row)


def content_of(row: Row[Any]) -> Content:
    """Read the content of a row of a review, or of a step."""
    return Content(ReviewState(row.state), row.text, row.long_description, row.language)


def _review(row: Row[Any]) -> Review:
    request = effective(row.defaults, row.request)
    return Review(
        item_id=row.item_id,
        job_id=row.job_id,
        ordinal=row.ordinal,
        custom_id=row.custom_id,
        page=row.page,
        confidence=row.certainty,
        content=content_of(row),
        revision=row.revision,
        reviewer=row.reviewer,
        reviewed_at=row.reviewed_at,
        images=row.images or request.get("images", []),
        request=request,
        answer=row.answer,
    )
