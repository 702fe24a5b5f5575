"""The claim: which items a worker takes next.

    conversations ─▶ the others          somebody waits for a conversation
      owner with the least running for its weight ─▶ the one served longest ago
        its jobs by rank                 created, less the head start of the priority
          their items by due time

A rank never changes by itself, so a job that waits overtakes whatever comes later than its head
start: nothing starves. All of it is asked of the record, so it holds at the next claim.

Items are taken first and their jobs' counts changed last: so claims of one job wait for each
other, and for those who end leases, only at the end. Everybody else locks jobs first; nobody who
holds a job waits for an item that is queued, so there is no circle.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select, update

from db.clock import now
from db.leases import Lease
from db.requests import effective
from db.sql import Statement
from db.states import Origin, Stage
from db.tables import items, jobs, owners

_HAS_DUE = """
    finished_at IS NULL AND origin {door} AND sealed_at IS NOT NULL AND queued > 0
    AND cancelled_at IS NULL AND paused_at IS NULL AND (expires_at IS NULL OR expires_at > {{now}})
    AND (CAST(:model AS text) IS NULL OR model = :model)
    AND EXISTS (
        SELECT 1 FROM items WHERE items.job_id = jobs.id AND stage = :stage
          AND state = 'queued' AND due_at <= {{now}})
"""


_BY_SHARE = """
    SELECT owners.id FROM owners LEFT JOIN (
        SELECT owner_id, count(*) AS running FROM items
        WHERE state = 'running' AND session_id IS NOT NULL AND stage = :stage GROUP BY owner_id
    ) AS busy ON busy.owner_id = owners.id
    WHERE EXISTS (SELECT 1 FROM jobs WHERE owner_id = owners.id AND {has_due})
    ORDER BY COALESCE(running, 0) / weight, claimed_at NULLS FIRST, owners.id LIMIT :limit
"""
_BY_RANK = """
    SELECT id FROM jobs WHERE owner_id = :owner AND {has_due}
    ORDER BY rank_at, id LIMIT :limit
"""
_LOOKS = (_BY_SHARE, _BY_RANK)
#: Each door on its own: its index ends the look early, however many jobs are open.
_DOORS = [
    tuple(Statement(text.replace("{has_due}", _HAS_DUE.format(door=door))) for text in _LOOKS)
    for door in ("= 'chat'", "<> 'chat'")
]
_TAKE = Statement(
    """
    WITH due AS MATERIALIZED (
        SELECT id FROM items
        WHERE job_id = :job AND stage = :stage AND state = 'queued' AND due_at <= {now}
          AND EXISTS (SELECT 1 FROM sessions WHERE id = :session AND alive_until > {now})
        ORDER BY due_at, id LIMIT :limit {skip_locked}
    )
    UPDATE items SET state = 'running', attempt = attempt + 1, session_id = :session,
        claimed_at = {now}, answer_key = NULL
    FROM due WHERE items.id = due.id
    RETURNING items.id, items.attempt, items.tries, items.rescues, items.deaths, items.owner_id,
        items.request, items.options_digest, items.images, items.examples
    """,
    items.c.id,
    items.c.attempt,
    items.c.tries,
    items.c.rescues,
    items.c.deaths,
    items.c.owner_id,
    items.c.request,
    items.c.options_digest,
    items.c.images,
    items.c.examples,
)
#: Asked again under the job's lock: what was answered (a pause, a cancel) holds for this claim.
_START = Statement(
    """
    UPDATE jobs SET queued = queued - :count, running = running + :count,
        started_at = COALESCE(started_at, {now})
    WHERE id = :job AND cancelled_at IS NULL AND paused_at IS NULL
      AND (expires_at IS NULL OR expires_at > {now})
    RETURNING id
    """
)
_GIVE_BACK = Statement(
    """
    UPDATE items SET state = 'queued', session_id = NULL
    FROM {records:id bigint} WHERE items.id = records.id
    """
)


def claim(
    transaction: Connection, *, session: str, stage: Stage, model: str | None, limit: int
) -> list[Lease]:
    """Take up to `limit` due items, in the order that the module describes.

    Takes nothing for a session that has expired, and nothing of a job that is paused, cancelled,
    expired or not sealed. Two claims never take the same item. Fewer than `limit` does not say
    that there are no more.

    Args:
        session: The claiming session, see db/sessions.py.
        stage: Which of the two stages.
        model: Only items of this model; None for all, as intake does.
        limit: Most items to take, >= 1.
    """
    taken: dict[str, Sequence[Any]] = {}
    left = limit
    for job_id in _choose(transaction, stage, model, limit):
        if rows := _take(transaction, job_id, session, stage, left):
            taken[job_id] = rows
            left -= len(rows)
        if not left:
            break
    if not taken:
        return []
    found = _leases(transaction, taken)
    started = _start(transaction, {job_id: len(rows) for job_id, rows in taken.items()})
    given_back = [lease for lease in found if lease.job_id not in started]
    if given_back:
        _GIVE_BACK.run(transaction, records=[{"id": lease.item_id} for lease in given_back])
    kept = [lease for lease in found if lease.job_id in started]
    for owner_id in sorted({lease.owner_id for lease in kept}):
        transaction.execute(update(owners).where(owners.c.id == owner_id).values(claimed_at=now()))
    return kept


def is_due(transaction: Connection, *, stage: Stage, model: str | None) -> bool:
    """Whether a claim that took nothing would find something now.

    Another may just be taking what it had chosen, and leave something else, or put it back.
    """
    return next(_choose(transaction, stage, model, 1), None) is not None


def _choose(transaction: Connection, stage: Stage, model: str | None, limit: int) -> Iterator[str]:
    """Jobs to claim from, in order."""
    asked: dict[str, Any] = {"stage": stage.value, "model": model}
    for by_share, by_rank in _DOORS:
        for owner_id in by_share.run(transaction, limit=limit, **asked).scalars().all():
            yield from (
                by_rank.run(transaction, owner=owner_id, limit=limit, **asked).scalars().all()
            )


def _take(
    transaction: Connection, job_id: str, session: str, stage: Stage, limit: int
) -> Sequence[Any]:
    rows = _TAKE.run(transaction, job=job_id, stage=stage.value, session=session, limit=limit).all()
    return sorted(rows, key=lambda row: int(row.id))


def _leases(transaction: Connection, taken: Mapping[str, Sequence[Any]]) -> list[Lease]:
    """Items with what their jobs say, read now: the first item of a job brings its examples."""
    told = transaction.execute(
        select(jobs.c.id, jobs.c.model, jobs.c.defaults, jobs.c.examples, jobs.c.origin).where(
            jobs.c.id.in_(list(taken))
        )
    )
    by_id = {job.id: job for job in told}
    return [_lease(by_id[job_id], row) for job_id, rows in taken.items() for row in rows]


def _lease(job: Any, row: Any) -> Lease:
    return Lease(
        item_id=row.id,
        attempt=row.attempt,
        tries=row.tries,
        rescues=row.rescues,
        deaths=row.deaths,
        job_id=job.id,
        owner_id=row.owner_id,
        model=job.model,
        request=effective(job.defaults, row.request),
        options_digest=row.options_digest,
        images=row.images,
        examples=row.examples if "examples" in row.request else job.examples,
        shares_examples="examples" in job.defaults and "examples" not in row.request,
        origin=Origin(job.origin),
    )


def _start(transaction: Connection, numbers: Mapping[str, int]) -> set[str]:
    """Count so many items of each job as running. Returns the jobs that still let them run."""
    return {
        job_id
        for job_id, number in sorted(numbers.items())
        if _START.run(transaction, job=job_id, count=number).one_or_none()
    }
