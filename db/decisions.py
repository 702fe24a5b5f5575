"""Decisions of people about drafts of alternative text, with their history.

    draft ──▶ unreviewed ──accept──▶ accepted       each step: who, when, what it led to
                  │  ├─────edit────▶ edited         and each can be undone, back to the draft
                  │  ├──decorative─▶ decorative
                  │  └────reject───▶ rejected

Whoever decides says which revision they saw; if somebody else has decided since, that is a
conflict and changes nothing.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection, insert, select, update

from db import reviews
from db.clock import now
from db.errors import RequestError, ReviewConflict
from db.reviews import Content, Review, ReviewState, content_of
from db.tables import review_steps
from db.tables import reviews as review_rows


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
        key_id: The key that was used, if there was one.
    """

    action: Action
    revision: int
    text: str | None = None
    long_description: str | None = None
    language: str | None = None
    reviewer: str = ""
    key_id: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of a review's history."""

    revision: int
    action: Action
    content: Content
    reviewer: str
    created_at: datetime


_OF_CONTENT = ("state", "text", "long_description", "language")


def history(transaction: Connection, review: Review) -> list[Step]:
    """Return the steps of a review, oldest first."""
    rows = transaction.execute(
        select(review_steps)
        .where(review_steps.c.item_id == review.item_id)
        .order_by(review_steps.c.revision)
    )
    return [
        Step(row.revision, Action(row.action), content_of(row), row.reviewer, row.created_at)
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
    review = reviews.get(transaction, owner_id, job_id, ordinal)
    content, undo_to = _outcome(transaction, review, decision)
    changed = {name: getattr(content, name) for name in _OF_CONTENT}
    written = transaction.execute(
        update(review_rows)
        .where(review_rows.c.item_id == review.item_id, review_rows.c.revision == decision.revision)
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
            key_id=decision.key_id,
            created_at=now(),
        )
    )
    return reviews.get(transaction, owner_id, job_id, ordinal)


def _outcome(
    transaction: Connection, review: Review, decision: Decision
) -> tuple[Content, int | None]:
    """Return what a decision leads to, and the revision to which undo returns."""
    if decision.action is Action.UNDO:
        return _before(transaction, review, decision.revision)
    drafted = _drafted(review)
    match decision.action:
        case Action.ACCEPT:
            # What is there now: the draft, or what somebody else made of it.
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
        if revision != review.revision:  # told as the conflict that it is
            return review.content, None
        raise RequestError("there is nothing to undo", field="action")
    if target == 0:
        return _drafted(review), None
    return content_of(steps[target]), steps[target].undo_to


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
