"""Retries: items of a finished job, submitted again as a new job.

    failed items, perhaps only some error codes ─┐
    answers with some issues ────────────────────┴─▶ new job, perhaps with other options

The items are copied within the database, with the images that intake has stored for them.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    case,
    cast,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from db.queue import answer_issues, quotas
from db.queue.jobs import Job
from db.queue.submissions import NewJob, create_once, seal
from db.sql.clock import now
from db.tables import Json, items, jobs
from db.vocabulary.errors import NotReady, RequestError
from db.vocabulary.limits import OwnerLimits
from db.vocabulary.lines import json_text
from db.vocabulary.requests import effective, options_digest
from db.vocabulary.states import ItemState, ModelChanged, Stage

#: Sets of options that the retried items of a job may have, if they are to be changed.
MAX_OPTION_SETS = 500


@dataclass(frozen=True, slots=True)
class Retry:
    """What is retried, and how.

    Attributes:
        codes: Failed items with one of these error codes.
        issues: Answered items with one of these issues, "any" for all. Without codes and issues
            all failed items are meant.
        options: Laid over the options of each item.
    """

    codes: Sequence[str] = ()
    issues: Sequence[str] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def chosen(self, job_id: str) -> ColumnElement[bool]:
        """Condition for the items of a job."""
        failed = items.c.state == ItemState.FAILED.value
        if self.codes:
            failed = and_(failed, items.c.error_code.in_(list(self.codes)))
        wanted = [failed] if self.codes or not self.issues else []
        if self.issues:
            wanted.append(answer_issues.has_one_of(self.issues))
        return and_(items.c.job_id == job_id, or_(*wanted))

    def digest(self, job_id: str) -> str:
        """Tells this retry from another one under the same idempotency key."""
        asked: list[Any] = ["retry", job_id, sorted(self.codes)]
        if self.issues or self.options:
            asked += [sorted(self.issues), self.options]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def retry(
    transaction: Connection,
    earlier: Job,
    wanted: Retry,
    key: str | None,
    limits: OwnerLimits,
    check: Callable[[dict[str, Any]], None],
) -> str:
    """Submit items of a finished job as a new job. Returns its id.

    Args:
        key: With the same key it is done once.
        limits: What its owner gets if nothing else was said.
        check: Raises RequestError for an effective request that the model cannot answer; called
            for one item of each group that shares its options.

    Raises:
        NotReady: The job has not finished, so more may fail.
        RequestError: There is nothing to retry, or the model does not take the options.
        IdempotencyConflict: The key was used for something else.
        QuotaExceeded: They are more than the owner may have waiting.
    """
    if earlier.finished_at is None:
        raise NotReady(f"job {earlier.id} is {earlier.state}: retry it when it has finished")
    new = NewJob(
        owner_id=earlier.owner_id,
        model=earlier.model,
        defaults=earlier.defaults,
        name=earlier.name,
        idempotency_key=key,
        body_digest=wanted.digest(earlier.id),
        priority=earlier.priority,
        pause_on_issues=earlier.pause_on_issues,
        model_changed=ModelChanged(earlier.model_changed),
    )
    job_id, created = create_once(transaction, new)
    if not created:
        return job_id
    count = _copy_items(transaction, earlier, job_id, wanted, check)
    if not count:
        raise RequestError(f"job {earlier.id} has no {_described(wanted)}")
    quotas.check_submission(transaction, earlier.owner_id, limits, count)
    shared = select(jobs.c.examples).where(jobs.c.id == earlier.id).scalar_subquery()
    transaction.execute(
        update(jobs).where(jobs.c.id == job_id).values(total=count, queued=count, examples=shared)
    )
    seal(transaction, job_id)
    return job_id


def _described(wanted: Retry) -> str:
    parts = []
    if wanted.codes or not wanted.issues:
        codes = f" with {' or '.join(wanted.codes)}" if wanted.codes else ""
        parts.append(f"failed items{codes}")
    if wanted.issues:
        parts.append(f"answers with issue {' or '.join(wanted.issues)}")
    return " and no ".join(parts)


def _copy_items(
    transaction: Connection,
    earlier: Job,
    job_id: str,
    wanted: Retry,
    check: Callable[[dict[str, Any]], None],
) -> int:
    chosen = wanted.chosen(earlier.id)
    request: ColumnElement[Any] = items.c.request
    digest: ColumnElement[Any] = items.c.options_digest
    if wanted.options:
        digests = _new_digests(transaction, earlier, chosen, wanted.options, check)
        if not digests:
            return 0
        digest = case(digests, value=items.c.options_digest)
        request = _with_options(transaction, wanted.options)
    columns = {
        "owner_id": items.c.owner_id,
        "job_id": literal(job_id),
        "ordinal": func.row_number().over(order_by=items.c.ordinal) - 1,
        "custom_id": items.c.custom_id,
        "request": request,
        "options_digest": digest,
        "stage": case((items.c.images.is_(None), Stage.INTAKE.value), else_=Stage.GENERATE.value),
        "state": literal(ItemState.QUEUED.value),
        "due_at": now(),
        "images": items.c.images,
        "examples": items.c.examples,
    }
    copied = transaction.execute(
        insert(items)
        .from_select(list(columns), select(*columns.values()).where(chosen))
        .execution_options(preserve_rowcount=True)
    )
    return int(copied.rowcount)


def _new_digests(
    transaction: Connection,
    earlier: Job,
    chosen: ColumnElement[bool],
    options: dict[str, Any],
    check: Callable[[dict[str, Any]], None],
) -> dict[str, str]:
    """Digests of the items with other options, by their digests until now.

    Items of one digest share all options but the seed, so one with a seed and one without stand for
    all of them.
    """
    has_seed = items.c.request["options"]["seed"].as_string().is_not(None)
    firsts = select(func.min(items.c.id)).where(chosen).group_by(items.c.options_digest, has_seed)
    rows = transaction.execute(
        select(items.c.options_digest, items.c.request)
        .where(items.c.id.in_(firsts))
        .limit(MAX_OPTION_SETS + 1)
    ).all()
    if len(rows) > MAX_OPTION_SETS:
        raise RequestError(
            f"the items of job {earlier.id} have more than {MAX_OPTION_SETS} sets of options of"
            " their own: retry them without other options, or submit them anew"
        )
    digests = {}
    for row in rows:
        if "refused" in row.request:  # it fails again, whatever its options
            digests[row.options_digest] = row.options_digest
            continue
        own = {**row.request, "options": {**row.request.get("options", {}), **options}}
        asked = effective(earlier.defaults, own)
        check(asked)
        digests[row.options_digest] = options_digest(asked)
    return digests


def _with_options(transaction: Connection, options: dict[str, Any]) -> ColumnElement[Any]:
    """Request of an item with these options laid over its own."""
    if transaction.dialect.name == "sqlite":
        patch = func.json_object("options", func.json(json_text(options)))
        return func.json_patch(items.c.request, patch, type_=Json)
    own = func.coalesce(items.c.request["options"], cast({}, Json), type_=Json)
    merged_options = func.jsonb_build_object("options", own.op("||")(cast(options, Json)))
    return items.c.request.op("||", return_type=Json)(merged_options)
