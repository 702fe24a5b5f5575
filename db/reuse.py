"""The same asked twice is answered once: by whoever was first, for all who ask.

    claimed ─▶ its key is noted ─▶ an item with this key has an answer   it is this one's too
                                ─▶ one is being answered now             wait for it
                                ─▶ neither                               answer it

Only within an owner, and only from items that are still there: deleting a job takes its answers
out of use. Nothing here is a lock: two that begin at the same moment may both wait a
second, or both be answered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from db import counts
from db.leases import Lease
from db.sql import Statement
from db.tables import items

_NOTE = Statement(
    """
    UPDATE items SET answer_key = records.key
    FROM {records:id bigint, attempt integer, key text}
    WHERE items.id = records.id AND items.attempt = records.attempt AND state = 'running'
    """
)
_ANSWERED = Statement(
    """
    SELECT records.id AS id, found.answer FROM {records:id bigint, owner bigint, key text}
    JOIN items AS found ON found.id = (
        SELECT done.id FROM items AS done JOIN jobs ON jobs.id = done.job_id
        WHERE done.owner_id = records.owner AND done.answer_key = records.key
          AND done.state = 'succeeded' AND jobs.deleted_at IS NULL
        ORDER BY done.id DESC LIMIT 1
    )
    """,
    items.c.id,
    items.c.answer,
)
_UNDER_WAY = Statement(
    """
    SELECT records.id FROM {records:id bigint, owner bigint, key text}
    WHERE EXISTS (
        SELECT 1 FROM items AS other
        WHERE other.owner_id = records.owner AND other.answer_key = records.key
          AND other.state = 'running' AND other.stage = 'generate'
          AND other.session_id <> :session AND other.claimed_at > {after:since}
    )
    """
)
#: An answer that takes longer is waited for no more.
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Found:
    """What others with the same keys have, by the ids of the items that ask.

    Attributes:
        answers: Of those that have been answered.
        under_way: Ids of those that another session is answering now.
    """

    answers: dict[int, dict[str, Any]]
    under_way: frozenset[int]


def note(transaction: Connection, keyed: Sequence[tuple[Lease, str]]) -> None:
    """Note what leased items ask for; to be committed before `look`."""
    counts.lock(transaction, {lease.job_id for lease, _ in keyed})
    _NOTE.run(
        transaction,
        records=[{"id": one.item_id, "attempt": one.attempt, "key": key} for one, key in keyed],
    )


def look(transaction: Connection, keyed: Sequence[tuple[Lease, str]], session: str) -> Found:
    """Find who has, or makes, the answers that items ask for which a session has leased."""
    records = [{"id": one.item_id, "owner": one.owner_id, "key": key} for one, key in keyed]
    answers = {row.id: row.answer for row in _ANSWERED.run(transaction, records=records)}
    under_way = _UNDER_WAY.run(
        transaction, records=records, session=session, since=-PATIENCE_SECONDS
    ).scalars()
    return Found(answers, frozenset(under_way))
