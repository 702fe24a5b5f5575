"""Reviews: the queue of drafts of alternative text, and decisions about them."""

import json
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from api.schemas import After, Index, Limit, decode_cursor, encode_cursor
from api.services import Parts, Reviewer, Seer
from db import reviews
from db.reviews import Action, Decision, Order, Review, ReviewState, Step
from db.vocabulary.errors import RequestError
from db.vocabulary.field_types import CustomId, Line, no_nul

router = APIRouter(tags=["reviews"])

#: Longest text that a person may write.
MAX_CHARACTERS = 20_000
Written = Annotated[
    str,
    StringConstraints(max_length=MAX_CHARACTERS, strip_whitespace=True),
    AfterValidator(no_nul),
]
JobId = Annotated[str, AfterValidator(no_nul)]


class DecisionIn(BaseModel):
    """A reviewer's decision."""

    model_config = ConfigDict(extra="forbid")

    action: Action
    revision: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        description="The revision that was seen; refused with 409 if it is not the last any more"
    )
    text: Written | None = Field(None, description="With edit: what the image's text shall be")
    long_description: Written | None = Field(None, description="With edit")
    language: Line | None = Field(None, description="With edit: what the text is in, if known")
    reviewer: Annotated[Line, Field(max_length=100)] | None = Field(
        None,
        description="Who decides, for the history. If the key names its holder, that is the"
        " reviewer, and this is kept beside it",
    )


class IssueOut(BaseModel):
    """An issue that the linter found in a draft."""

    code: str
    message: str


class DraftOut(BaseModel):
    """The model's draft, which never changes."""

    text: str
    long_description: str | None
    language: str | None
    confidence: float = Field(description="From 0 to 1")
    issues: list[IssueOut] = Field(description="What the linter found in the draft")
    rewritten: bool = Field(description="The draft was generated again because of its issues")
    certainty: float = Field(description="The name of `confidence` in release 0.1", deprecated=True)
    objections: list[IssueOut] = Field(
        description="The name of `issues` in release 0.1", deprecated=True
    )


class StepOut(BaseModel):
    """One step of the history."""

    revision: int
    action: str
    state: str
    text: str | None
    reviewer: str
    stated_reviewer: str | None = Field(
        description="Whom the client named, if the key says who the reviewer is"
    )
    at: datetime

    @classmethod
    def of(cls, step: Step) -> "StepOut":
        """Build from a step."""
        return cls(
            revision=step.revision,
            action=step.action.value,
            state=step.content.state.value,
            text=step.content.text,
            reviewer=step.reviewer,
            stated_reviewer=step.stated_reviewer,
            at=step.created_at,
        )


class ReviewOut(BaseModel):
    """A draft, its decision, and what is needed to judge it."""

    job: str
    index: int
    custom_id: str | None
    page: str
    state: ReviewState
    text: str | None = Field(description="As of now; empty for a decorative image")
    long_description: str | None
    language: str | None
    revision: int
    reviewer: str | None
    reviewed_at: datetime | None
    images: list[str]
    context: dict[str, Any] = Field(description="`alt_text` of the request")
    draft: DraftOut

    @classmethod
    def of(cls, review: Review) -> "ReviewOut":
        """Build from a review."""
        alt_text, now_there = review.answer["alt_text"], review.content
        issues = (
            alt_text["issues"] if "issues" in alt_text else alt_text["objections"]
        )  # of release 0.1
        return cls(
            job=review.job_id,
            index=review.ordinal,
            custom_id=review.custom_id,
            page=review.page,
            state=now_there.state,
            text=now_there.text,
            long_description=now_there.long_description,
            language=now_there.language,
            revision=review.revision,
            reviewer=review.reviewer,
            reviewed_at=review.reviewed_at,
            images=review.images,
            context=review.request["alt_text"],
            draft=DraftOut(
                text=review.answer["text"],
                long_description=alt_text.get("long_description"),
                language=alt_text.get("language"),
                confidence=review.confidence,
                issues=issues,
                rewritten=alt_text["rewritten"],
                certainty=review.confidence,
                objections=issues,
            ),
        )


class ReviewWithHistory(ReviewOut):
    """A review with every step so far."""

    history: list[StepOut]


class ReviewPage(BaseModel):
    """A page of reviews, undecided first."""

    data: list[ReviewOut]
    has_more: bool
    next: str | None = Field(description="Cursor of the next page")


@router.get("/v1/reviews")
def list_reviews(  # noqa: PLR0913 - what a queue can be asked for
    services: Parts,
    owner: Seer,
    state: Annotated[
        list[ReviewState] | None, Query(description="Only these; may be repeated", max_length=5)
    ] = None,
    job: Annotated[JobId | None, Query(description="Only of this job")] = None,
    custom_id: Annotated[
        list[CustomId] | None, Query(description="Only these; may be repeated", max_length=100)
    ] = None,
    order: Annotated[
        Order, Query(description="Within each half by page, or the least certain first")
    ] = Order.PAGE,
    limit: Limit = 100,
    after: After = None,
) -> ReviewPage:
    """List drafts, undecided first, by page or least confident first."""
    with services.database.snapshot() as transaction:
        found = reviews.page(
            transaction,
            owner.id,
            order=order,
            states=state or (),
            job_id=job,
            custom_ids=custom_id or (),
            beyond=_position(after, order) if after else None,
            limit=limit + 1,
        )
    shown, more = found[:limit], len(found) > limit
    last = json.dumps(reviews.position(shown[-1], order)) if more else None
    return ReviewPage(
        data=[ReviewOut.of(review) for review in shown],
        has_more=more,
        next=encode_cursor(last) if last else None,
    )


def _position(after: str, order: Order) -> list[Any]:
    kind = str if order is Order.PAGE else float
    try:
        decided, key, item_id = json.loads(decode_cursor(after))
        ids = type(decided) is int and type(item_id) is int
        if ids and isinstance(key, kind) and abs(decided) < 2 and 0 <= item_id < 2**63:
            return [decided, key, item_id]
    except (ValueError, TypeError):
        pass
    raise RequestError(f"invalid cursor of reviews in this order: {after!r}", field="after")


@router.get("/v1/jobs/{job_id}/items/{index}/review")
def get_review(
    job_id: Annotated[JobId, Path()], index: Index, services: Parts, owner: Seer
) -> ReviewWithHistory:
    """Return one draft with its history."""
    with services.database.snapshot() as transaction:
        review = reviews.get(transaction, owner.id, job_id, index)
        steps = reviews.history(transaction, review)
    return _with_history(review, steps)


@router.post("/v1/jobs/{job_id}/items/{index}/review")
def decide(
    job_id: Annotated[JobId, Path()],
    index: Index,
    decision: DecisionIn,
    services: Parts,
    caller: Reviewer,
) -> ReviewWithHistory:
    """Accept, edit, mark as decorative, reject, or undo the last step."""
    for field in ("text", "long_description", "language"):
        if decision.action is not Action.EDIT and getattr(decision, field) is not None:
            raise RequestError(f"{field!r} is allowed for the action 'edit' only", field=field)
    taken = Decision(
        action=decision.action,
        revision=decision.revision,
        text=decision.text,
        long_description=decision.long_description,
        language=decision.language,
        reviewer=caller.holder or decision.reviewer or caller.actor.name,
        stated_reviewer=decision.reviewer if caller.holder else None,
        key_id=caller.key_id or None,
    )
    with services.database.transaction() as transaction:
        review = reviews.decide(transaction, caller.owner.id, job_id, index, taken)
        steps = reviews.history(transaction, review)
    return _with_history(review, steps)


def _with_history(review: Review, steps: list[Step]) -> ReviewWithHistory:
    shown = ReviewOut.of(review).model_dump()
    return ReviewWithHistory(**shown, history=[StepOut.of(step) for step in steps])
