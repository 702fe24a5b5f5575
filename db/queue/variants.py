"""Variants: two engines of one model name may differ in checkpoint, adapter, template or options.

first claim ─▶ the job is bound to the engine's variant ─▶ only engines of that variant claim
none of them is left, but another variant is ─▶ the job pauses itself ─▶ resumed: bound anew

A job says with `model_changed: continue` that any engine may answer any item. Engines of release
0.2 have no variant: they claim everything, and bind nothing.
"""

from collections.abc import Collection

from sqlalchemy import Connection

from db.sql.statement import Statement
from db.tables import jobs
from db.vocabulary.states import JobState, ModelChanged
from db.webhooks import outbox
from db.webhooks.outbox import Announcement

_OF_SESSION = "(SELECT sessions.variant FROM sessions WHERE sessions.id = :session)"
#: The job has no answer, and nobody serves its variant any more.
_IS_UNUSED = """(succeeded = 0 AND NOT EXISTS (
    SELECT 1 FROM sessions AS others WHERE others.model = jobs.model
      AND others.variant = jobs.variant AND others.alive_until > {now}))"""
#: Condition on `jobs` under which the session :session may claim from them.
IS_OURS = f"""
    (model_changed = 'continue' OR jobs.variant IS NULL OR {_OF_SESSION} IS NULL
     OR jobs.variant = {_OF_SESSION} OR {_IS_UNUSED})
"""
#: Condition on `jobs`: not, or not yet, bound to the variant that the session :session serves.
IS_FOREIGN = f"""
    (model_changed = '{ModelChanged.PAUSE}' AND {_OF_SESSION} IS NOT NULL
     AND (jobs.variant IS NULL OR jobs.variant <> {_OF_SESSION}))
"""
_BIND = Statement(
    f"""
    UPDATE jobs SET variant = {_OF_SESSION} FROM {{records:job text}}
    WHERE jobs.id = records.job
      AND (jobs.variant IS NULL OR {_IS_UNUSED})
    """  # noqa: S608 - constants
)
_PAUSE = Statement(
    """
    UPDATE jobs SET paused_at = {now}, pause_reason = 'model_changed'
    WHERE id IN (
        SELECT id FROM jobs
        WHERE finished_at IS NULL AND model_changed = 'pause' AND variant IS NOT NULL
          AND sealed_at IS NOT NULL AND queued > 0 AND succeeded > 0
          AND paused_at IS NULL AND cancelled_at IS NULL
          AND EXISTS (
            SELECT 1 FROM sessions WHERE sessions.model = jobs.model AND alive_until > {now}
              AND sessions.variant <> jobs.variant)
          AND NOT EXISTS (
            SELECT 1 FROM sessions WHERE sessions.model = jobs.model
              AND alive_until > {after:grace}
              AND (sessions.variant IS NULL OR sessions.variant = jobs.variant))
        ORDER BY id {skip_locked})
    RETURNING id, owner_id, paused_at
    """,
    jobs.c.id,
    jobs.c.owner_id,
    jobs.c.paused_at,
)


def bind(transaction: Connection, job_ids: Collection[str], session: str) -> None:
    """Bind jobs to the variant of the session that claims, but for those bound to another one.

    A job without an answer is bound anew if nobody serves its variant any more. The jobs must be
    locked, so other claims from them wait until the transaction ends.
    """
    _BIND.run(transaction, records=[{"job": job_id} for job_id in job_ids], session=session)


def pause_changed(transaction: Connection, grace_seconds: float) -> list[str]:
    """Pause the jobs whose variant nobody serves any more, while others of their model are served.

    Their webhooks are written into the outbox. Safe to repeat; returns the ids of the jobs.

    Args:
        grace_seconds: How long ago the last engine of the variant must have ended: one that starts
            again or is silent for a moment pauses nothing.
    """
    paused = _PAUSE.run(transaction, grace=-grace_seconds).all()
    outbox.announce(
        transaction,
        [
            Announcement(
                row.owner_id,
                row.id,
                f"job.{JobState.PAUSED}",
                f"paused_{int(row.paused_at.timestamp())}_",
            )
            for row in paused
        ],
    )
    return [row.id for row in paused]
