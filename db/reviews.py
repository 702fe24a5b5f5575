"""Reviews: the queue of drafts of alternative text, and what people decide about them.

Longer than 300 lines because the statements of a decision, its history and its undoing have to
agree.

    draft ──▶ unreviewed ──accept──▶ accepted       each step: who, when, what it led to
                  │  ├─────edit────▶ edited         and each can be undone, back to the draft
                  │  ├──decorative─▶ decorative
                  │  └────reject───▶ rejected

A decision names the revision that the reviewer saw. If somebody else has decided since, that is a
conflict and changes nothing. The item's own answer never changes.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, insert, select, tuple_, update

from db.sql.clock import now
from db.tables import items, jobs, review_steps, reviews
from db.vocabulary.errors import NotFound, RequestError, ReviewConflict
from db.vocabulary.requests import effective


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


class Action(StrEnum):
    """What a reviewer can do."""

    ACCEPT = "accept"
    EDIT = "edit"
    DECORATIVE = "decorative"
    REJECT = "reject"
    UNDO = "undo"


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision of a reviewer, who has seen `revision`.

    Attributes:
        text: With "edit": the new text; the others have none.
        language: With "edit": what the text is in.
        reviewer: A name for the history.
        stated_reviewer: Whom the client named, if the key says otherwise.
        key_id: The key that was used, if there was one.
    """

    action: Action
    revision: int
    text: str | None = None
    long_description: str | None = None
    language: str | None = None
    reviewer: str = ""
    stated_reviewer: str | None = None
    key_id: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of a review's history."""

    revision: int
    action: Action
    content: Content
    reviewer: str
    stated_reviewer: str | None
    created_at: datetime


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
_OF_CONTENT = ("state", "text", "long_description", "language")
_KEYS = {Order.PAGE: reviews.c.page, Order.CONFIDENCE: reviews.c.certainty}


def _confidence(alt_text: dict[str, Any]) -> float:
    """Read the confidence of an answer, which release 0.1 called certainty."""
    value = alt_text["confidence"] if "confidence" in alt_text else alt_text["certainty"]
    return float(value)


# ---- the queue ------------------------------------------------------------------------


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


def _content(row: Row[Any]) -> Content:
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
        content=_content(row),
        revision=row.revision,
        reviewer=row.reviewer,
        reviewed_at=row.reviewed_at,
        images=row.images or request.get("images", []),
        request=request,
        answer=row.answer,
    )


# ---- decisions ------------------------------------------------------------------------


def history(transaction: Connection, review: Review) -> list[Step]:
    """Return the steps of a review, oldest first."""
    rows = transaction.execute(
        select(review_steps)
        .where(review_steps.c.item_id == review.item_id)
        .order_by(review_steps.c.revision)
    )
    return [
        Step(
            row.revision,
            Action(row.action),
            _content(row),
            row.reviewer,
            row.stated_reviewer,
            row.created_at,
        )
        for row in rows
    ]


def decide(
    transaction: Connection, owner_id: int, job_id: str, ordinal: int, decision: Decision
) -> Review:
    """Apply a decision. Writes only if the review is still at the revision that was seen.

    Raises:
        NotFound: See `get`.
        RequestError: An edit without a text, or nothing to undo.
        ReviewConflict: Somebody else has decided since.
    """
    review = get(transaction, owner_id, job_id, ordinal)
    content, undo_to = _outcome(transaction, review, decision)
    changed = {name: getattr(content, name) for name in _OF_CONTENT}
    written = transaction.execute(
        update(reviews)
        .where(reviews.c.item_id == review.item_id, reviews.c.revision == decision.revision)
        .values(
            **changed,
            decided=int(content.state is not ReviewState.UNREVIEWED),
            revision=decision.revision + 1,
            reviewer=decision.reviewer,
            reviewed_at=now(),
        )
    )
    if not written.rowcount:
        who = f"{review.reviewer or 'somebody'} has decided since you looked: "
        raise ReviewConflict(
            f"{who if review.revision > decision.revision else ''}this is revision"
            f" {review.revision}, yours is {decision.revision}; read the review again",
            field="revision",
        )
    transaction.execute(
        insert(review_steps).values(
            **changed,
            item_id=review.item_id,
            revision=decision.revision + 1,
            owner_id=owner_id,
            action=decision.action.value,
            undo_to=undo_to,
            reviewer=decision.reviewer,
            stated_reviewer=decision.stated_reviewer,
            key_id=decision.key_id,
            created_at=now(),
        )
    )
    return get(transaction, owner_id, job_id, ordinal)


def _outcome(
    transaction: Connection, review: Review, decision: Decision
) -> tuple[Content, int | None]:
    """Return what a decision leads to, and the revision to which undo returns."""
    if decision.action is Action.UNDO:
        return _before(transaction, review, decision.revision)
    drafted = _drafted(review)
    match decision.action:
        case Action.ACCEPT:
            # The current text: the draft, or an edit by another reviewer.
            now_there = review.content if review.content.text else drafted
            content = _with_state(now_there, ReviewState.ACCEPTED)
        case Action.EDIT:
            if not (decision.text or "").strip():
                raise RequestError(
                    "an edit requires a text; for none, decide 'decorative'", field="text"
                )
            content = Content(
                ReviewState.EDITED,
                decision.text,
                decision.long_description or review.content.long_description,
                decision.language or review.content.language,
            )
        case Action.DECORATIVE:
            if review.request["alt_text"].get("role") == "functional":
                raise RequestError(
                    "it is all that a link or a button has: edit it to say where that leads,"
                    " or what it does",
                    field="action",
                )
            content = Content(ReviewState.DECORATIVE, "")
        case _:
            content = _with_state(drafted, ReviewState.REJECTED)
    return content, decision.revision


def _before(transaction: Connection, review: Review, revision: int) -> tuple[Content, int | None]:
    steps = {
        row.revision: row
        for row in transaction.execute(
            select(review_steps).where(review_steps.c.item_id == review.item_id)
        )
    }
    target = steps[revision].undo_to if revision in steps else None
    if target is None:
        if revision != review.revision:  # reported as the conflict that it is
            return review.content, None
        raise RequestError("there is nothing to undo", field="action")
    if target == 0:
        return _drafted(review), None
    return _content(steps[target]), steps[target].undo_to


def _drafted(review: Review) -> Content:
    alt_text = review.answer["alt_text"]
    return Content(
        ReviewState.UNREVIEWED,
        review.answer["text"],
        alt_text.get("long_description"),
        alt_text.get("language"),
    )


def _with_state(content: Content, state: ReviewState) -> Content:
    return Content(state, content.text, content.long_description, content.language)
