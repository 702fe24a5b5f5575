"""Leases, and the ways in which they end.

    claim ──▶ running, ──▶ complete       answered             (advance: its images are stored)
              claim        fail           an error: final, or tried again later
              number + 1   release        back to the queue; no attempt is charged
                           mark_suspects  the item was on the device that hung
                           rescue         its session died; back to the queue  (db/rescues.py)

The claim number is the fencing token: every write after the claim demands it, and `state =
'running'`. A row that does not match was a lost lease, and its answer is dropped. In SQL the claim
number is the column `attempt`, the charged attempts are `tries`, and the hangs are `deaths`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, update

from db import counts, reviews
from db.errors import IdefiqError, Poison, StorageError
from db.requests import example_references, image_references
from db.reviews import Draft
from db.sql import Statement
from db.states import FINAL_STATES, ItemState, SourceApi
from db.tables import jobs

#: Longest wait before a retry.
MAX_RETRY_SECONDS = 300.0
#: Once may be chance; an item that was rescued this often runs alone from then on.
SUSPECT_RESCUES = 2
#: An item that hung the device this often while it ran alone is failed.
MAX_HANGS = 2


@dataclass(frozen=True, slots=True)
class Lease:
    """A claimed item: its request, and the fencing token that proves the claim.

    Attributes:
        claim_number: The fencing token: how often the item was claimed.
        attempts: Attempts charged so far, without this one.
        rescues: How often a worker died with the item in this stage; SUSPECT_RESCUES more after
            it hung the device together with others.
        hang_count: How often the watchdog ended a worker that ran the item alone.
        request: The effective request, see db/requests.py.
        images: `blob:` references after intake; None before.
        examples: `blob:` references of the images of its examples, or of its job's examples if it
            shares those; None until intake has stored them.
        shares_examples: True if its examples are those of its job.
        source_api: The API through which its job was submitted.
    """

    item_id: int
    claim_number: int
    attempts: int
    rescues: int
    hang_count: int
    job_id: str
    owner_id: int
    model: str
    request: dict[str, Any]
    options_digest: str
    images: list[str] | None
    examples: list[str] | None = None
    shares_examples: bool = False
    source_api: SourceApi = SourceApi.JOB

    @property
    def is_suspect(self) -> bool:
        """True if the item must run alone on the device: it may have crashed a worker."""
        return self.rescues >= SUSPECT_RESCUES or self.hang_count > 0

    @property
    def intake_references(self) -> list[str]:
        """References that intake must fetch: images, and examples that are not stored yet."""
        examples = example_references(self.request) if self.examples is None else []
        return [*image_references(self.request), *examples]

    @property
    def stored_references(self) -> list[str]:
        """References after intake: images, then images of examples."""
        images = self.images or []
        if (
            self.examples is None
        ):  # no examples, or a release before migration 0002 stored both together
            return images
        return [*images[: len(image_references(self.request))], *self.examples]


@dataclass(frozen=True, slots=True)
class Failure:
    """A lease, and the error that ends it."""

    lease: Lease
    error: IdefiqError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a retryable error is tried, and how long to wait before the first retry."""

    max_attempts: int
    first_wait_seconds: float

    def wait_seconds(self, attempts: int) -> float:
        """Wait before the next attempt, when `attempts` were charged before."""
        return min(self.first_wait_seconds * 2.0**attempts, MAX_RETRY_SECONDS)


# ---- SQL -----------------------------------------------------------------------

_COMPLETE = Statement(
    """
    UPDATE items SET state = 'succeeded', answer = records.answer, finished_at = {now},
        session_id = NULL, result_number = records.number
    FROM {records:id bigint, attempt integer, answer jsonb, number bigint}
    WHERE items.id = records.id AND items.attempt = records.attempt AND state = 'running'
    RETURNING items.id
    """
)
_FAIL = Statement(
    """
    UPDATE items SET state = 'failed', error_code = records.code, error_message = records.message,
        finished_at = {now}, session_id = NULL, result_number = records.number,
        tries = items.tries + 1
    FROM {records:id bigint, attempt integer, code text, message text, number bigint}
    WHERE items.id = records.id AND items.attempt = records.attempt AND state = 'running'
    RETURNING items.id
    """
)
_REQUEUE = Statement(
    """
    UPDATE items SET state = 'queued', session_id = NULL, tries = items.tries + :charge,
        due_at = CASE WHEN :keeps_place = 1 THEN items.due_at ELSE {after:wait} END
    FROM {records:id bigint, attempt integer}
    WHERE items.id = records.id AND items.attempt = records.attempt AND state = 'running'
    RETURNING items.id
    """
)
_MARK_SUSPECTS = Statement(
    """
    UPDATE items SET state = 'queued', session_id = NULL,
        rescues = items.rescues + :rescues, deaths = items.deaths + :deaths
    FROM {records:id bigint, attempt integer}
    WHERE items.id = records.id AND items.attempt = records.attempt AND state = 'running'
    RETURNING items.id
    """
)
_ADVANCE = Statement(
    """
    UPDATE items SET state = 'queued', stage = 'generate', session_id = NULL, due_at = {now},
        images = records.images, examples = records.examples, tries = 0, rescues = 0
    FROM {records:id bigint, attempt integer, images jsonb, examples jsonb}
    WHERE items.id = records.id AND items.attempt = records.attempt AND state = 'running'
    RETURNING items.id
    """
)


def complete(transaction: Connection, answers: Sequence[tuple[Lease, dict[str, Any]]]) -> set[int]:
    """Write answers. Returns the ids of items whose lease still held; safe to repeat."""
    leases = [lease for lease, _ in answers]
    records = [
        {"id": lease.item_id, "attempt": lease.claim_number, "answer": answer}
        for lease, answer in answers
    ]
    ours = _end(transaction, leases, _COMPLETE, records, ItemState.SUCCEEDED)
    drafts = [
        Draft(lease.item_id, lease.owner_id, lease.job_id, lease.request, answer)
        for lease, answer in answers
        if "alt_text" in answer and lease.item_id in ours
    ]
    reviews.queue(transaction, drafts)
    return ours


def fail(transaction: Connection, failures: Sequence[Failure], policy: RetryPolicy) -> set[int]:
    """End leases with an error: finally, or with a later `due_at` if another attempt may help.

    A StorageError charges no attempt. Returns the ids of items whose lease still held; safe to
    repeat.
    """
    # All jobs at once, in one order: below, final failures and each wait are separate statements.
    counts.lock(transaction, {failure.lease.job_id for failure in failures})
    final: list[Failure] = []
    later: list[Failure] = []
    for failure in failures:
        exhausted = failure.lease.attempts + 1 >= policy.max_attempts
        charged = not isinstance(failure.error, StorageError)
        retried = failure.error.retryable and not (charged and exhausted)
        (later if retried else final).append(failure)
    ours = _fail_for_good(transaction, final)
    for (wait, charge), leases in _by_wait(later, policy).items():
        ours |= _requeue(transaction, leases, wait_seconds=wait, charge=charge)
    return ours


def _by_wait(
    failures: Sequence[Failure], policy: RetryPolicy
) -> dict[tuple[float, int], list[Lease]]:
    groups: dict[tuple[float, int], list[Lease]] = {}
    for failure in failures:
        charge = 0 if isinstance(failure.error, StorageError) else 1
        wait = policy.wait_seconds(failure.lease.attempts)
        groups.setdefault((wait, charge), []).append(failure.lease)
    return groups


def _fail_for_good(transaction: Connection, failures: Sequence[Failure]) -> set[int]:
    leases = [failure.lease for failure in failures]
    records = [
        {
            "id": failure.lease.item_id,
            "attempt": failure.lease.claim_number,
            "code": failure.error.code,
            "message": str(failure.error)[:500],
        }
        for failure in failures
    ]
    return _end(transaction, leases, _FAIL, records, ItemState.FAILED)


def release(
    transaction: Connection, leases: Sequence[Lease], *, wait_seconds: float = 0.0
) -> set[int]:
    """Return items to the queue without charging an attempt; without a wait they keep their place.

    Returns the ids of items whose lease still held; safe to repeat.
    """
    return _requeue(transaction, leases, wait_seconds=wait_seconds, charge=0)


def _requeue(
    transaction: Connection, leases: Sequence[Lease], *, wait_seconds: float, charge: int
) -> set[int]:
    records = [{"id": lease.item_id, "attempt": lease.claim_number} for lease in leases]
    return _end(
        transaction,
        leases,
        _REQUEUE,
        records,
        ItemState.QUEUED,
        wait=wait_seconds,
        keeps_place=int(wait_seconds == 0),
        charge=charge,
    )


def mark_suspects(transaction: Connection, running: Sequence[Lease], *, alone: bool) -> set[int]:
    """End the leases of the items that were on the device when it hung. Safe to repeat.

    The hang count of an item that ran alone grows, and at MAX_HANGS it fails. Of several items
    any may be the cause: each runs alone from now on, and none is charged.

    Args:
        alone: True if the item ran with nothing else on the device.
    """
    if alone and running[0].hang_count + 1 >= MAX_HANGS:
        error = Poison(f"the device hung {MAX_HANGS} times while the item ran alone")
        return _fail_for_good(transaction, [Failure(running[0], error)])
    records = [{"id": lease.item_id, "attempt": lease.claim_number} for lease in running]
    charge = {"rescues": 0, "deaths": 1} if alone else {"rescues": SUSPECT_RESCUES, "deaths": 0}
    return _end(transaction, running, _MARK_SUSPECTS, records, ItemState.QUEUED, **charge)


def advance(transaction: Connection, arrived: Sequence[tuple[Lease, list[str]]]) -> set[int]:
    """Move items from intake to generate: their images are stored and good. Safe to repeat.

    Images of examples that a job's items share are recorded with the job by the first item.
    """
    records = []
    shared: dict[str, list[str]] = {}
    for lease, references in arrived:
        own = len(image_references(lease.request))
        images, examples = references[:own], references[own:]
        if lease.shares_examples and examples:
            shared[lease.job_id] = examples
        record = {"id": lease.item_id, "attempt": lease.claim_number, "images": images}
        records.append({**record, "examples": None if lease.shares_examples else examples})
    ours = _end(transaction, [lease for lease, _ in arrived], _ADVANCE, records, ItemState.QUEUED)
    for job_id, examples in shared.items():
        transaction.execute(
            update(jobs)
            .where(jobs.c.id == job_id, jobs.c.examples.is_(None))
            .values(examples=examples)
        )
    return ours


def _end(
    transaction: Connection,
    leases: Sequence[Lease],
    statement: Statement,
    records: Sequence[dict[str, Any]],
    state: ItemState,
    **parameters: Any,
) -> set[int]:
    """End leases. In a final state each item takes the next result number of its job.

    Numbers of leases that turn out to be lost stay unused. A gap is harmless; a number below a
    reader's cursor would be a result that the reader never sees.
    """
    if not leases:
        return set()
    job_of = {lease.item_id: lease.job_id for lease in leases}
    last = counts.lock(transaction, job_of.values())
    if state in FINAL_STATES:
        for lease, record in zip(leases, records, strict=True):
            last[lease.job_id] += 1
            record["number"] = last[lease.job_id]
    ours = {int(row.id) for row in statement.run(transaction, records=records, **parameters)}
    moved = Counter(job_of[item] for item in ours)
    counts.move(transaction, moved, ItemState.RUNNING, state, last)
    return ours
