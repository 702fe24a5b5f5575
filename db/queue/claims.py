"""The claim: which items a worker takes next.

    owner with the least running for its weight ─▶ the one served longest ago
      its chat completions first         a caller waits for each of them
        its jobs by rank                 created, less the head start of the priority
          their items by due time, those that wait for another attempt last

A rank never changes by itself, so a job that waits overtakes whatever comes later than its head
start: nothing starves. Everything is read from the database, so a change takes effect at the next
claim.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import Boolean, Connection, Double, Row, column

from db.queue import counts, gate, variants
from db.queue.lease import Lease
from db.sql.statement import Statement
from db.tables import items, jobs
from db.vocabulary.requests import effective
from db.vocabulary.states import ItemState, SourceApi, Stage

_HAS_DUE = f"""
    finished_at IS NULL AND sealed_at IS NOT NULL AND queued > 0
    AND cancelled_at IS NULL AND paused_at IS NULL AND (expires_at IS NULL OR expires_at > {{now}})
    AND (CAST(:model AS text) IS NULL OR model = :model) AND {variants.IS_OURS}
    AND EXISTS (
        SELECT 1 FROM items WHERE items.job_id = jobs.id AND stage = :stage
          AND state = 'queued' AND (delayed = false OR due_at <= {{now}}))
"""  # noqa: S608 - constants
_WITH_DUE = Statement(
    f"""
    SELECT owners.id FROM owners
    WHERE EXISTS (SELECT 1 FROM jobs WHERE owner_id = owners.id AND {_HAS_DUE})
      AND (NOT EXISTS (SELECT 1 FROM {{records:owner bigint}} WHERE records.owner = owners.id)
        OR EXISTS (
            SELECT 1 FROM jobs WHERE owner_id = owners.id AND origin = 'chat' AND {_HAS_DUE}))
    """  # noqa: S608 - constants
)
_BY_SHARE = Statement(
    """
    SELECT owners.id FROM {records:owner bigint} JOIN owners ON owners.id = records.owner
    LEFT JOIN (
        SELECT owner_id, count(*) AS running FROM items
        WHERE state = 'running' AND session_id IS NOT NULL AND stage = :stage GROUP BY owner_id
    ) AS busy ON busy.owner_id = owners.id
    ORDER BY COALESCE(running, 0) / weight, claimed_at NULLS FIRST, owners.id LIMIT :limit
    """
)
#: Chat completions of an owner first, then its other jobs; each has an index that ends the search.
_BY_RANK = [
    Statement(
        f"""
        SELECT id FROM jobs WHERE owner_id = :owner AND origin {source_api} AND {_HAS_DUE}
        ORDER BY rank_at, id LIMIT :limit
        """  # noqa: S608 - constants
    )
    for source_api in ("= 'chat'", "<> 'chat'")
]
_DUE_OF = Statement(
    """
    SELECT count(*) FROM (
        SELECT 1 FROM items WHERE job_id = :job AND stage = :stage AND state = 'queued'
          AND (delayed = false OR due_at <= {now}) LIMIT :limit
    ) AS due
    """
)
_CLAIM = Statement(
    """
    WITH fresh AS MATERIALIZED (
        SELECT id FROM items
        WHERE job_id = :job AND stage = :stage AND state = 'queued' AND delayed = false
          AND EXISTS (SELECT 1 FROM sessions WHERE id = :session AND alive_until > {now})
        ORDER BY due_at, id LIMIT :limit {skip_locked}
    ), delayed AS MATERIALIZED (
        SELECT id FROM items
        WHERE job_id = :job AND stage = :stage AND state = 'queued' AND delayed = true
          AND due_at <= {now}
          AND EXISTS (SELECT 1 FROM sessions WHERE id = :session AND alive_until > {now})
        ORDER BY due_at, id LIMIT :limit - (SELECT count(*) FROM fresh) {skip_locked}
    ), due AS (SELECT id FROM fresh UNION ALL SELECT id FROM delayed)
    UPDATE items SET state = 'running', attempt = attempt + 1, session_id = :session,
        claimed_at = {now}, answer_key = NULL
    FROM due WHERE items.id = due.id
    RETURNING items.id, items.attempt, items.tries, items.rescues, items.deaths, items.request,
        items.options_digest, items.images, items.examples,
        {seconds_since:items.due_at} AS waited_seconds
    """,
    items.c.id,
    items.c.attempt,
    items.c.tries,
    items.c.rescues,
    items.c.deaths,
    items.c.request,
    items.c.options_digest,
    items.c.images,
    items.c.examples,
    column("waited_seconds", Double()),
)
_CLAIMABLE = Statement(
    f"""
    SELECT id, owner_id, model, defaults, examples, origin, traceparent, pause_on_issues,
        {variants.IS_FOREIGN} AS is_foreign
    FROM jobs WHERE id IN (SELECT job FROM {{records:job text}})
      AND cancelled_at IS NULL AND paused_at IS NULL
      AND (expires_at IS NULL OR expires_at > {{now}})
    """,  # noqa: S608 - constants
    jobs.c.id,
    jobs.c.owner_id,
    jobs.c.model,
    jobs.c.defaults,
    jobs.c.examples,
    jobs.c.origin,
    jobs.c.traceparent,
    jobs.c.pause_on_issues,
    column("is_foreign", Boolean()),
)
_SERVED = Statement("UPDATE owners SET claimed_at = {now} WHERE id = :owner")


def claim(
    transaction: Connection,
    *,
    session: str,
    stage: Stage,
    model: str | None,
    limit: int,
    without: Collection[int] = (),
) -> list[Lease]:
    """Take up to `limit` due items, in the order that the module describes.

    Takes nothing for an expired session, and nothing of a job that is paused, cancelled,
    expired or not sealed. Two claims never take the same item. Fewer than `limit` does not say
    that there are no more.

    Args:
        session: The claiming session, see db/queue/sessions.py.
        stage: Which of the two stages.
        model: Only items of this model; None for all, as intake does.
        limit: Most items to take, >= 1.
        without: Ids of owners of whom nothing but chat completions is taken.
    """
    chosen = list(_choose(transaction, session, stage, model, limit, without))
    claimable = _claimable(transaction, session, chosen)
    taken: list[Lease] = []
    for job_id in chosen:
        if job_id in claimable and len(taken) < limit:
            left = limit - len(taken)
            taken += _claim_of(transaction, claimable[job_id], session, stage, left)
    moved = Counter(lease.job_id for lease in taken)
    counts.move(transaction, moved, ItemState.QUEUED, ItemState.RUNNING)
    for owner_id in sorted({lease.owner_id for lease in taken}):
        _SERVED.run(transaction, owner=owner_id)
    return taken


def is_due(
    transaction: Connection,
    *,
    session: str,
    stage: Stage,
    model: str | None,
    without: Collection[int] = (),
) -> bool:
    """True if items are due for a session, of other owners than `without`, or chat completions.

    A claim can return nothing although items are due: another worker took those it had chosen.
    """
    return next(_choose(transaction, session, stage, model, 1, without), None) is not None


def _choose(
    transaction: Connection,
    session: str,
    stage: Stage,
    model: str | None,
    limit: int,
    without: Collection[int],
) -> Iterator[str]:
    """Jobs to claim from, in order, until they have `limit` due items together."""
    asked: dict[str, Any] = {
        "session": session,
        "stage": stage.value,
        "model": model,
        "limit": limit,
    }
    excluded = [{"owner": owner_id} for owner_id in without]
    wanted = limit
    owner_ids = _WITH_DUE.run(transaction, records=excluded, **asked).scalars().all()
    if len(owner_ids) > 1:
        candidates = [{"owner": owner_id} for owner_id in owner_ids]
        by_share = _BY_SHARE.run(transaction, records=candidates, stage=stage.value, limit=limit)
        owner_ids = by_share.scalars().all()
    for owner_id in owner_ids:
        for by_rank in _BY_RANK[:1] if owner_id in without else _BY_RANK:
            for job_id in by_rank.run(transaction, owner=owner_id, **asked).scalars().all():
                yield job_id
                wanted -= _DUE_OF.run(
                    transaction, job=job_id, stage=stage.value, limit=wanted
                ).scalar_one()
                if wanted <= 0:
                    return


def _claimable(
    transaction: Connection, session: str, job_ids: Sequence[str]
) -> dict[str, Row[Any]]:
    """Return those jobs that are neither paused nor cancelled nor expired, by id.

    None of them is paused or cancelled by a person before the claim ends; see db/queue/gate.py.
    All are bound to the variant of the session, or to none; see db/queue/variants.py.
    """
    gate.enter(transaction, job_ids)
    found = _claimable_now(transaction, session, job_ids)
    if foreign := [job_id for job_id, row in found.items() if row.is_foreign]:
        counts.lock(transaction, found)  # all, because the rest of them is locked later
        variants.bind(transaction, foreign, session)
        found = _claimable_now(transaction, session, job_ids)
    return {job_id: row for job_id, row in found.items() if not row.is_foreign}


def _claimable_now(
    transaction: Connection, session: str, job_ids: Sequence[str]
) -> dict[str, Row[Any]]:
    records = [{"job": job_id} for job_id in job_ids]
    return {row.id: row for row in _CLAIMABLE.run(transaction, records=records, session=session)}


def _claim_of(
    transaction: Connection, job: Any, session: str, stage: Stage, limit: int
) -> list[Lease]:
    rows: Sequence[Any] = _CLAIM.run(
        transaction, job=job.id, stage=stage.value, session=session, limit=limit
    ).all()
    of_job: dict[str, Any] = {
        "session_id": session,
        "job_id": job.id,
        "owner_id": job.owner_id,
        "model": job.model,
        "source_api": SourceApi(job.origin),
        "traceparent": job.traceparent,
        "pauses_on_issues": job.pause_on_issues is not None,
    }
    has_shared = "examples" in job.defaults
    taken = []
    for row in sorted(rows, key=itemgetter(0)):
        # At once: for thousands of rows a second, each column by its name takes longer.
        item_id, attempt, tries, rescues, deaths, request, digest, images, examples, waited = row
        has_own = "examples" in request
        taken.append(
            Lease(
                item_id=item_id,
                claim_number=attempt,
                attempts=tries,
                rescues=rescues,
                hang_count=deaths,
                request=effective(job.defaults, request),
                options_digest=digest,
                images=images,
                examples=examples if has_own else job.examples,
                shares_examples=has_shared and not has_own,
                waited_seconds=waited,
                **of_job,
            )
        )
    return taken
