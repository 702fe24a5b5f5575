"""Rescues: items of dead sessions return to the queue, without a charged attempt.

The death of a worker is no evidence against its items. An item that is rescued again and again
waits longer each time, so that an item that crashes workers unseen leaves them time for others.
"""

from sqlalchemy import Connection

from db import failpoints
from db.queue import counts, numbers
from db.sql.statement import Statement
from db.vocabulary.states import ItemState

_DEAD = Statement(
    """
    SELECT items.job_id FROM items JOIN sessions ON sessions.id = items.session_id
    WHERE items.state = 'running' AND sessions.alive_until < {now} LIMIT :limit
    """
)
#: The dead session is looked up again by the statement that writes: between the two, an item
#: may have been completed, and a completed item stays as it is.
_RESCUE = Statement(
    """
    WITH dead AS MATERIALIZED (
        SELECT items.id FROM items JOIN sessions ON sessions.id = items.session_id
        WHERE items.job_id = :job AND items.state = 'running' AND sessions.alive_until < {now}
        ORDER BY items.id LIMIT :limit {skip:items}
    )
    UPDATE items SET state = 'queued', session_id = NULL, rescues = items.rescues + 1,
        delayed = items.rescues >= 3,
        due_at = CASE WHEN items.rescues < 3 THEN items.due_at ELSE
            {later:CASE WHEN items.rescues < 14 THEN 1 << (items.rescues - 3) ELSE 3600 END} END
    FROM dead WHERE items.id = dead.id AND items.state = 'running'
      AND EXISTS (
        SELECT 1 FROM sessions
        WHERE sessions.id = items.session_id AND sessions.alive_until < {now})
    RETURNING items.id
    """
)


def rescue(transaction: Connection, limit: int = 1_000) -> int:
    """Return items of dead sessions to the queue. Safe to repeat; returns how many."""
    affected = sorted({row.job_id for row in _DEAD.run(transaction, limit=limit)})
    rescued: dict[str, int] = {}
    if affected:
        failpoints.trigger("rescuing")
        counts.lock(transaction, affected)
        rescued = {
            job: len(_RESCUE.run(transaction, job=job, limit=limit).all()) for job in affected
        }
        counts.move(transaction, rescued, ItemState.RUNNING, ItemState.QUEUED)
    numbers.release(transaction)  # last: of every session whose items were rescued
    return sum(rescued.values())
