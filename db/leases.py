"""Leases, and the ways in which a worker ends them.

    claim ──▶ running, attempt + 1 ──▶ complete   an answer        (advance: its images are in)
    (db/claims.py)                 ──▶ fail       an error, final or tried again later
                                   ──▶ release    handed back, charged to nobody
                                   ──▶ blame      it was on the device that hung
                                   ──▶ rescue     the session died; taken back  (db/rescues.py)

Every write after the claim names the attempt and demands `state = 'running'`. A row that does
not come back was somebody else's by then: a lost lease, whose answer is dropped.
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
from db.states import FINAL_STATES, ItemState, Origin
from db.tables import jobs

#: Longest wait before a retry.
MAX_RETRY_SECONDS = 300.0
#: Once may be chance; an item that was rescued this often shares no batch any more.
SUSPECT_RESCUES = 2
#: An item that hung the device this often while it was alone on it is failed.
MAX_DEATHS = 2


@dataclass(frozen=True, slots=True)
class Lease:
    """One item, claimed: what to do, and the token that proves the claim.

    Attributes:
        attempt: The fencing token.
        tries: Attempts charged so far, this one not included.
        rescues: How often its worker died or gave up while it had the item.
        deaths: How often the watchdog had to end a worker that ran it alone.
        request: The effective request, see db/requests.py.
        images: References after intake; None before.
        examples: References of the images of its examples, or of its job's if it shares those;
            None as long as intake has not brought them in.
        shares_examples: Whether its examples are its job's.
        origin: Through which door its job came.
    """

    item_id: int
    attempt: int
    tries: int
    rescues: int
    deaths: int
    job_id: str
    owner_id: int
    model: str
    request: dict[str, Any]
    options_digest: str
    images: list[str] | None
    examples: list[str] | None = None
    shares_examples: bool = False
    origin: Origin = Origin.JOB

    @property
    def is_suspect(self) -> bool:
        """Whether it is to run alone, so that what it does is done to nobody else."""
        return self.rescues >= SUSPECT_RESCUES or self.deaths > 0

    @property
    def wanted(self) -> list[str]:
        """References that intake is to bring in: images, and examples that are not here yet."""
        examples = example_references(self.request) if self.examples is None else []
        return [*image_references(self.request), *examples]

    @property
    def shown(self) -> list[str]:
        """References after intake: images, then those of examples."""
        images = self.images or []
        if self.examples is None:  # there are none, or a release before 0002 put them together
            return images
        return [*images[: len(image_references(self.request))], *self.examples]


@dataclass(frozen=True, slots=True)
class Failure:
    """A lease that ends with an error."""

    lease: Lease
    error: IdefiqError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a retryable error is tried, and how long to wait before the first retry."""

    max_tries: int
    first_wait_seconds: float

    def wait_seconds(self, tries: int) -> float:
        """The wait before the next attempt when `tries` were charged before."""
        return min(self.first_wait_seconds * 2.0**tries, MAX_RETRY_SECONDS)


# ---- the ends -----------------------------------------------------------------------

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
_BLAME = Statement(
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
    """Write answers. Returns the ids that were still ours; safe to repeat."""
    leases = [lease for lease, _ in answers]
    records = [
        {"id": lease.item_id, "attempt": lease.attempt, "answer": answer}
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
    """End leases with an error: for good, or until a later `due_at` if another try may help.

    A StorageError is charged to nobody. Returns the ids that were still ours; safe to repeat.
    """
    # All at once, in one order: final ones are written first, and then each wait by itself.
    counts.lock(transaction, {failure.lease.job_id for failure in failures})
    final: list[Failure] = []
    later: list[Failure] = []
    for failure in failures:
        exhausted = failure.lease.tries + 1 >= policy.max_tries
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
        wait = policy.wait_seconds(failure.lease.tries)
        groups.setdefault((wait, charge), []).append(failure.lease)
    return groups


def _fail_for_good(transaction: Connection, failures: Sequence[Failure]) -> set[int]:
    leases = [failure.lease for failure in failures]
    records = [
        {
            "id": failure.lease.item_id,
            "attempt": failure.lease.attempt,
            "code": failure.error.code,
            "message": str(failure.error)[:500],
        }
        for failure in failures
    ]
    return _end(transaction, leases, _FAIL, records, ItemState.FAILED)


def release(
    transaction: Connection, leases: Sequence[Lease], *, wait_seconds: float = 0.0
) -> set[int]:
    """Hand items back, charged to nobody; without a wait they keep their place.

    Returns the ids that were ours; safe to repeat.
    """
    return _requeue(transaction, leases, wait_seconds=wait_seconds, charge=0)


def _requeue(
    transaction: Connection, leases: Sequence[Lease], *, wait_seconds: float, charge: int
) -> set[int]:
    records = [{"id": lease.item_id, "attempt": lease.attempt} for lease in leases]
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


def blame(transaction: Connection, running: Sequence[Lease], *, alone: bool) -> set[int]:
    """End the leases that were on the device together when it hung. Safe to repeat.

    One that was alone is charged with it, and given up the second time. Of several, any may be
    at fault: each runs alone from now on, and nothing is charged.

    Args:
        alone: Whether nothing else was on the device.
    """
    if alone and running[0].deaths + 1 >= MAX_DEATHS:
        error = Poison(f"the device hung {MAX_DEATHS} times with nothing else on it")
        return _fail_for_good(transaction, [Failure(running[0], error)])
    records = [{"id": lease.item_id, "attempt": lease.attempt} for lease in running]
    charge = {"rescues": 0, "deaths": 1} if alone else {"rescues": SUSPECT_RESCUES, "deaths": 0}
    return _end(transaction, running, _BLAME, records, ItemState.QUEUED, **charge)


def advance(transaction: Connection, arrived: Sequence[tuple[Lease, list[str]]]) -> set[int]:
    """Move items from intake to generate: what they wanted is stored and good. Safe to repeat.

    The images of examples that a job's items share are noted with the job by the first of them.
    """
    records = []
    shared: dict[str, list[str]] = {}
    for lease, brought in arrived:
        own = len(image_references(lease.request))
        images, examples = brought[:own], brought[own:]
        if lease.shares_examples and examples:
            shared[lease.job_id] = examples
        record = {"id": lease.item_id, "attempt": lease.attempt, "images": images}
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
    """End leases. For good, each takes the next result number of its job.

    Numbers given to leases that turn out to be lost may stay unused: a gap is harmless, a number
    below one that a reader has already passed would be a result never seen.
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
