"""Leases, and the ways in which they end.

    claim ──▶ running, ──▶ complete       answered             (advance: its images are stored)
              claim        fail           an error: final, or tried again later
              number + 1   release        back to the queue; no attempt is charged
                           mark_suspects  the item was on the device that hung
                           rescue         its session died; back to the queue  (db/queue/rescues.py)

The claim number is the fencing token: every write after the claim demands it, and `state =
'running'`. A row that does not match was a lost lease, and its answer is dropped. In SQL the claim
number is the column `attempt`, the charged attempts are `tries`, and the hangs are `deaths`.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, update

from db import reviews
from db.queue import answer_issues, counts, numbers, usage
from db.queue.lease import SUSPECT_RESCUES, Failure, Lease, RetryPolicy
from db.queue.usage import Used
from db.reviews import Draft
from db.sql.statement import Statement
from db.tables import jobs
from db.vocabulary.errors import Poison, StorageError
from db.vocabulary.requests import image_references
from db.vocabulary.states import ItemState

#: An item that hung the device this often while it ran alone is failed.
MAX_HANGS = 2


_COMPLETE = Statement(
    """
    UPDATE items SET state = 'succeeded', answer = records.answer, issues = records.issues,
        finished_at = {now}, session_id = NULL, result_number = records.number
    FROM {records:id bigint, attempt integer, answer jsonb, issues text, number bigint}
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
        due_at = CASE WHEN :keeps_place = 1 THEN items.due_at ELSE {after:wait} END,
        delayed = :keeps_place = 0
    FROM {records:id bigint, attempt integer}
    WHERE items.id = records.id AND items.attempt = records.attempt AND state = 'running'
    RETURNING items.id
    """
)
_MARK_SUSPECTS = Statement(
    """
    UPDATE items SET state = 'queued', session_id = NULL, delayed = false,
        rescues = items.rescues + :rescues, deaths = items.deaths + :deaths
    FROM {records:id bigint, attempt integer}
    WHERE items.id = records.id AND items.attempt = records.attempt AND state = 'running'
    RETURNING items.id
    """
)
_ADVANCE = Statement(
    """
    UPDATE items SET state = 'queued', stage = 'generate', session_id = NULL, due_at = {now},
        delayed = false, images = records.images, examples = records.examples,
        tries = 0, rescues = 0
    FROM {records:id bigint, attempt integer, images jsonb, examples jsonb}
    WHERE items.id = records.id AND items.attempt = records.attempt AND state = 'running'
    RETURNING items.id
    """
)


def complete(
    transaction: Connection,
    answers: Sequence[tuple[Lease, dict[str, Any]]],
    device_seconds: Mapping[int, float] = MappingProxyType({}),
    reserved: Mapping[str, int] = MappingProxyType({}),
) -> set[int]:
    """Write answers, and count what they have used and their issues.

    Args:
        device_seconds: Time on the device, by item id.
        reserved: First result numbers of jobs for which they were reserved; see numbers.reserve.

    Returns:
        The ids of items whose lease still held; safe to repeat.
    """
    leases = [lease for lease, _ in answers]
    records = [
        {
            "id": lease.item_id,
            "attempt": lease.claim_number,
            "answer": answer,
            "issues": answer_issues.joined(answer.get("issues", ())),
        }
        for lease, answer in answers
    ]

    def used(ours: set[int]) -> Used:
        counted = [each for each in answers if each[0].item_id in ours]
        return usage.of_answers(counted, device_seconds)

    _number(transaction, leases, records, reserved)
    ours = _end(transaction, leases, _COMPLETE, records, ItemState.SUCCEEDED, used)
    answer_issues.count(
        transaction,
        [(lease, answer.get("issues", ())) for lease, answer in answers if lease.item_id in ours],
    )
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
    # All at once: below, final failures and each wait are separate statements.
    counts.lock_leased(transaction, [failure.lease for failure in failures])
    ours = _fail_for_good(transaction, [each for each in failures if policy.is_final(each)])
    later = [each for each in failures if not policy.is_final(each)]
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

    def used(ours: set[int]) -> Used:
        return usage.of_failures(lease for lease in leases if lease.item_id in ours)

    _number(transaction, leases, records)
    return _end(transaction, leases, _FAIL, records, ItemState.FAILED, used)


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
    if alone and is_poison(running):
        error = Poison(f"the device hung {MAX_HANGS} times while the item ran alone")
        return _fail_for_good(transaction, [Failure(running[0], error)])
    records = [{"id": lease.item_id, "attempt": lease.claim_number} for lease in running]
    return _end(
        transaction,
        running,
        _MARK_SUSPECTS,
        records,
        ItemState.QUEUED,
        rescues=0 if alone else SUSPECT_RESCUES,
        deaths=int(alone),
    )


def is_poison(running: Sequence[Lease]) -> bool:
    """True if what runs is one item that has now hung the device once too often."""
    return len(running) == 1 and running[0].hang_count + 1 >= MAX_HANGS


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
    has_moved = {lease.job_id for lease, _ in arrived if lease.item_id in ours}
    for job_id, examples in sorted(shared.items()):
        if job_id not in has_moved:
            continue
        transaction.execute(
            update(jobs)
            .where(jobs.c.id == job_id, jobs.c.examples.is_(None))
            .values(examples=examples)
        )
    return ours


def _number(
    transaction: Connection,
    leases: Sequence[Lease],
    records: Sequence[dict[str, Any]],
    reserved: Mapping[str, int] = MappingProxyType({}),
) -> None:
    """Give each record the next result number of its job.

    Numbers of leases that turn out to be lost stay unused: a gap is harmless.
    """
    wanted = Counter(lease.job_id for lease in leases)
    following = numbers.take(transaction, wanted, reserved)
    if rest := {job_id: wanted[job_id] for job_id in wanted.keys() - following.keys()}:
        counts.lock_leased(transaction, leases)
        following |= numbers.draw(transaction, rest)
    for lease, record in zip(leases, records, strict=True):
        record["number"] = following[lease.job_id]
        following[lease.job_id] += 1


def _end(
    transaction: Connection,
    leases: Sequence[Lease],
    statement: Statement,
    records: Sequence[dict[str, Any]],
    target: ItemState,
    used: Callable[[set[int]], Used] = lambda ours: {},
    **parameters: Any,
) -> set[int]:
    """End leases.

    What items have used is counted for their owners and jobs: `used` is called with the ids of
    those whose leases still held.
    """
    if not leases:
        return set()
    job_of = {lease.item_id: lease.job_id for lease in leases}
    ours = {int(row.id) for row in statement.run(transaction, records=records, **parameters)}
    moved = Counter(job_of[item] for item in ours)
    counted = used(ours)
    counts.move(transaction, moved, ItemState.RUNNING, target, counted)
    usage.add(transaction, counted.values())
    return ours
