"""Figures of the whole queue, for metrics: what waits, for how long, and who works on it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from db.queue import sessions
from db.sql.statement import Statement
from db.vocabulary.states import Stage

#: So many owners, those with the most unfinished items, are counted by name.
TOP_OWNERS = 10


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """Figures of one moment. Ages are in seconds; keys are in the order of their names.

    Attributes:
        items: Unfinished items by (state, model, kind); `paused` is a state here, and the kind is
            that of the job's defaults, "" if they name none.
        jobs: Unfinished jobs by state.
        oldest_due: Age of the oldest due item by (stage, model). Retries that wait are not due.
        workers: Live workers by (stage, model); intake has the model "".
        top_owners: Unfinished items by owner, of the owners with the most.
        deliveries: Webhook deliveries that are not done, and the age of the oldest due one.
    """

    items: dict[tuple[str, str, str], int]
    jobs: dict[str, int]
    oldest_due: dict[tuple[str, str], float]
    workers: dict[tuple[Stage, str], int]
    top_owners: dict[str, int]
    deliveries: tuple[int, float]


@dataclass(frozen=True, slots=True)
class StorageFigures:
    """Figures that take a whole table to count.

    Attributes:
        reviews: Drafts without a decision.
        stored_bytes: Bytes of images and files.
        database_bytes: Size of the database.
    """

    reviews: int
    stored_bytes: int
    database_bytes: int


_UNFINISHED = Statement(
    """
    SELECT model, COALESCE(defaults ->> 'kind', '') AS kind, paused_at IS NOT NULL AS is_paused,
        SUM(queued) AS queued, SUM(running) AS running
    FROM jobs WHERE finished_at IS NULL GROUP BY 1, 2, 3
    """
)
_JOBS = Statement(
    """
    SELECT CASE WHEN cancelled_at IS NOT NULL THEN 'cancelling' WHEN sealed_at IS NULL
            THEN 'importing' WHEN paused_at IS NOT NULL THEN 'paused'
            WHEN started_at IS NULL THEN 'queued' ELSE 'running' END AS state, COUNT(*) AS jobs
    FROM jobs WHERE finished_at IS NULL GROUP BY 1
    """
)
#: An index has the first item of each job and stage, so this costs as much as there are jobs.
_OLDEST_DUE = Statement(
    """
    SELECT stage, model, MAX({seconds_since:due_at}) AS age FROM (
        SELECT stages.stage, jobs.model, (
            SELECT MIN(due_at) FROM items
            WHERE job_id = jobs.id AND stage = stages.stage AND state = 'queued') AS due_at
        FROM jobs CROSS JOIN (SELECT 'intake' AS stage UNION ALL SELECT 'generate') AS stages
        WHERE finished_at IS NULL AND sealed_at IS NOT NULL AND queued > 0
          AND cancelled_at IS NULL AND paused_at IS NULL
          AND (expires_at IS NULL OR expires_at > {now})
    ) AS first WHERE due_at <= {now} GROUP BY 1, 2
    """
)
_TOP_OWNERS = Statement(
    """
    SELECT owners.name, SUM(queued + running) AS items FROM jobs
    JOIN owners ON owners.id = jobs.owner_id
    WHERE finished_at IS NULL GROUP BY owners.name ORDER BY items DESC, owners.name LIMIT :limit
    """
)
_DELIVERIES = Statement(
    """
    SELECT COUNT(*) AS waiting, MAX({seconds_since:due_at}) AS age
    FROM deliveries WHERE due_at IS NOT NULL
    """
)
_REVIEWS = Statement("SELECT COUNT(*) FROM reviews WHERE decided = 0")
_STORED = Statement(
    """
    SELECT (SELECT COALESCE(SUM(size_bytes), 0) FROM blobs)
         + (SELECT COALESCE(SUM(size_bytes), 0) FROM files)
    """
)
_DATABASE_BYTES = Statement("{database_bytes}")


def queue_figures(transaction: Connection) -> QueueFigures:
    """Read the figures in a snapshot. What is served has figures, even if they are 0."""
    workers = sessions.alive(transaction)
    oldest_due = {(str(stage), model): 0.0 for stage, model in workers}
    for row in _OLDEST_DUE.run(transaction):
        oldest_due[row.stage, row.model] = _age(row.age)
    waiting_deliveries = _DELIVERIES.run(transaction).one()
    return QueueFigures(
        items=_unfinished(transaction, {model for _, model in workers if model}),
        jobs={row.state: row.jobs for row in _JOBS.run(transaction)},
        oldest_due=oldest_due,
        workers=workers,
        top_owners={
            row.name: int(row.items) for row in _TOP_OWNERS.run(transaction, limit=TOP_OWNERS)
        },
        deliveries=(waiting_deliveries.waiting, _age(waiting_deliveries.age)),
    )


def _unfinished(transaction: Connection, served: Iterable[str]) -> dict[tuple[str, str, str], int]:
    items = {(state, model, ""): 0 for model in served for state in ("queued", "running", "paused")}
    for row in _UNFINISHED.run(transaction):
        waiting = "paused" if row.is_paused else "queued"
        for state, count in ((waiting, row.queued), ("running", row.running)):
            key = (state, row.model, row.kind)
            items[key] = items.get(key, 0) + int(count)
    return items


def storage_figures(transaction: Connection) -> StorageFigures:
    """Count whole tables, in a snapshot of the caller's."""
    return StorageFigures(
        reviews=_REVIEWS.run(transaction).scalar_one(),
        stored_bytes=int(_STORED.run(transaction).scalar_one()),
        database_bytes=int(_DATABASE_BYTES.run(transaction).scalar_one()),
    )


def _age(seconds: Any) -> float:
    """An age of nothing, or of what is due in the future, is 0."""
    return max(0.0, float(seconds or 0.0))
