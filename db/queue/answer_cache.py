"""The answer cache: equal requests of one owner are answered once.

    claim ─▶ store_keys ─▶ lookup ─▶ an item with this key is answered     reuse its answer
                                  ─▶ another session is answering one      wait for it
                                  ─▶ neither                               generate the answer

The cache is the table of items itself, so deleting a job removes its answers from it. It is not a
lock: two sessions that start at the same moment may both wait a second, or both generate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from db.queue.lease import Lease
from db.sql.statement import Statement
from db.tables import items

_STORE_KEYS = Statement(
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
_IN_PROGRESS = Statement(
    """
    SELECT records.id FROM {records:id bigint, owner bigint, key text, session text}
    WHERE EXISTS (
        SELECT 1 FROM items AS other
        WHERE other.owner_id = records.owner AND other.answer_key = records.key
          AND other.state = 'running' AND other.stage = 'generate'
          AND other.session_id <> records.session AND other.claimed_at > {after:since}
    )
    """
)
#: An item does not wait for another that has taken longer than this.
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class CachedAnswers:
    """What the cache holds for some items.

    Attributes:
        answers: Answers of equal requests, by the id of the item that asks.
        in_progress: Ids of items whose equal request another session is answering now.
    """

    answers: dict[int, dict[str, Any]]
    in_progress: frozenset[int]


def store_keys(transaction: Connection, keyed: Sequence[tuple[Lease, str]]) -> None:
    """Store the request keys of leased items. Must be committed before `lookup`."""
    _STORE_KEYS.run(
        transaction,
        records=[
            {"id": one.item_id, "attempt": one.claim_number, "key": key} for one, key in keyed
        ],
    )


def lookup(transaction: Connection, keyed: Sequence[tuple[Lease, str]]) -> CachedAnswers:
    """Look up answers for leased items."""
    records = [
        {"id": one.item_id, "owner": one.owner_id, "key": key, "session": one.session_id}
        for one, key in keyed
    ]
    answers = {row.id: row.answer for row in _ANSWERED.run(transaction, records=records)}
    in_progress = _IN_PROGRESS.run(transaction, records=records, since=-PATIENCE_SECONDS).scalars()
    return CachedAnswers(answers, frozenset(in_progress))
