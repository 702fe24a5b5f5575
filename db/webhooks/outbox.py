"""The outbox: deliveries of events, written in the transaction that ends or pauses a job.

    job ends, or pauses itself ─▶ a delivery for each webhook that wants it
                                   └─▶ due ─▶ tried ─▶ delivered, or given up
                                        ▲       │
                                        └───────┘ later and later

The id of a delivery is derived from the event and the webhook, so each event has one delivery.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from types import MappingProxyType

from sqlalchemy import Connection, delete, or_, select, tuple_, update

from db.sql.clock import after, now
from db.sql.statement import Statement
from db.tables import deliveries, webhooks
from db.vocabulary.errors import NotFound
from db.webhooks.endpoints import Webhook, get

#: Seconds from one attempt to the next: more than three days in all.
SCHEDULE = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
#: Of one webhook, and of one owner, so many are tried at a time.
OF_WEBHOOK, OF_OWNER = 2, 4
#: What was taken and never heard of again is due again after this.
TRY_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event for one webhook.

    Attributes:
        subject: The job or batch that it is about.
        due_at: When it is tried next; None if it will not be.
        status: What the receiver answered last.
        problem: What went wrong last, in a sentence.
    """

    id: str
    owner_id: int
    webhook_id: str
    event: str
    subject: str
    created_at: datetime
    due_at: datetime | None
    attempts: int
    delivered_at: datetime | None
    status: int | None
    problem: str | None


_COLUMNS = [deliveries.c[field.name] for field in fields(Delivery)]

_ANNOUNCE = Statement(
    """
    INSERT INTO deliveries (id, owner_id, webhook_id, event, subject, created_at, due_at)
    SELECT 'msg_' || records.subject || '_' || records.mark || webhooks.id, webhooks.owner_id,
        webhooks.id, records.event, records.subject, {now}, {now}
    FROM webhooks JOIN {records:owner bigint, subject text, event text, mark text}
      ON records.owner = webhooks.owner_id
    WHERE disabled_at IS NULL AND events LIKE '% ' || records.event || ' %'
    {keep:webhooks}
    ON CONFLICT DO NOTHING
    """
)


@dataclass(frozen=True, slots=True)
class Announcement:
    """What has happened to a job or batch: its owner, its id, and one of EVENTS.

    Attributes:
        mark: Part of the ids of the deliveries: what happened under one mark is announced once.
    """

    owner: int
    subject: str
    event: str
    mark: str = ""


def announce(transaction: Connection, announcements: Iterable[Announcement]) -> None:
    """Queue deliveries of what has just happened. Safe to repeat."""
    if records := [asdict(each) for each in announcements]:
        _ANNOUNCE.run(transaction, records=records)


_DUE = Statement(
    """
    SELECT id FROM deliveries
    WHERE due_at IS NOT NULL AND (attempts = 0 OR due_at <= {now}) AND id IN (
        SELECT id FROM (
            SELECT id, due_at, COALESCE(running, 0)
                + row_number() OVER (PARTITION BY owner_id ORDER BY due_at, id) AS owner_place
            FROM (
                SELECT id, owner_id, due_at,
                    row_number() OVER (PARTITION BY webhook_id ORDER BY due_at, id) AS place
                FROM deliveries WHERE due_at IS NOT NULL AND (attempts = 0 OR due_at <= {now})
                  AND webhook_id IN (SELECT id FROM webhooks WHERE disabled_at IS NULL)
            ) AS of_webhook
            LEFT JOIN (SELECT owner, running FROM {records:owner bigint, running bigint}) AS busy
              ON busy.owner = owner_id
            WHERE place <= :of_webhook
        ) AS of_owner WHERE owner_place <= :of_owner ORDER BY owner_place, due_at, id LIMIT :limit
    ) ORDER BY due_at, id {skip_locked}
    """,
    deliveries.c.id,
)


def take_due(
    transaction: Connection, limit: int, running: Mapping[int, int] = MappingProxyType({})
) -> list[tuple[Delivery, Webhook]]:
    """Take due deliveries: first of the owners with the fewest under way.

    So neither a slow webhook nor an owner with many delays the others. Whoever takes them may die:
    then they are due again after TRY_SECONDS.

    Args:
        running: Deliveries that are under way in this process, by owner.
    """
    taken = []
    busy = [{"owner": owner, "running": count} for owner, count in running.items()]
    found = _DUE.run(
        transaction, records=busy, of_webhook=OF_WEBHOOK, of_owner=OF_OWNER, limit=limit
    )
    for delivery_id in found.scalars().all():
        row = transaction.execute(
            update(deliveries)
            .where(deliveries.c.id == delivery_id)
            .values(attempts=deliveries.c.attempts + 1, due_at=after(TRY_SECONDS))
            .returning(*_COLUMNS)
        ).one()
        delivery = Delivery(*row)
        taken.append((delivery, get(transaction, delivery.owner_id, delivery.webhook_id)))
    return taken


def delivered(transaction: Connection, delivery_id: str, status: int) -> None:
    """Record a successful delivery. Safe to repeat."""
    transaction.execute(
        update(deliveries)
        .where(deliveries.c.id == delivery_id)
        .values(delivered_at=now(), due_at=None, status=status, problem=None)
    )


def failed(
    transaction: Connection,
    delivery: Delivery,
    status: int | None,
    problem: str,
    *,
    jitter: float,
    wait_seconds: float = 0.0,
) -> None:
    """Record a failed attempt, and when the next one is due. Safe to repeat.

    Args:
        jitter: The wait until then as a share of the schedule's.
        wait_seconds: What the receiver asked for; granted up to the longest of the schedule.
    """
    due_at = None
    if delivery.attempts <= len(SCHEDULE):
        planned = SCHEDULE[delivery.attempts - 1] * jitter
        due_at = after(max(planned, min(wait_seconds, SCHEDULE[-1])))
    transaction.execute(
        update(deliveries)
        .where(
            deliveries.c.id == delivery.id,
            deliveries.c.attempts == delivery.attempts,
            deliveries.c.delivered_at.is_(None),
        )
        .values(status=status, problem=problem, due_at=due_at)
    )


def log(
    transaction: Connection, owner_id: int, webhook_id: str, *, before: str | None, limit: int
) -> list[Delivery]:
    """Return a webhook's deliveries, newest first; `before` is the last id of the previous page."""
    get(transaction, owner_id, webhook_id)
    query = select(*_COLUMNS).where(deliveries.c.webhook_id == webhook_id)
    if before is not None:
        since = select(deliveries.c.created_at).where(deliveries.c.id == before).scalar_subquery()
        place = tuple_(deliveries.c.created_at, deliveries.c.id)
        query = query.where(place < tuple_(since, before))
    newest = query.order_by(deliveries.c.created_at.desc(), deliveries.c.id.desc())
    rows = transaction.execute(newest.limit(limit))
    return [Delivery(*row) for row in rows]


def redeliver(
    transaction: Connection, owner_id: int, webhook_id: str, delivery_id: str
) -> Delivery:
    """Queue a delivery again under its id, keeping its attempts.

    Raises:
        NotFound: There is none, or it is another owner's.
    """
    get(transaction, owner_id, webhook_id)
    row = transaction.execute(
        update(deliveries)
        .where(deliveries.c.id == delivery_id, deliveries.c.webhook_id == webhook_id)
        .values(due_at=now(), attempts=0, delivered_at=None)
        .returning(*_COLUMNS)
    ).first()
    if row is None:
        raise NotFound(f"no such delivery: {delivery_id!r}")
    return Delivery(*row)


def delete_old(transaction: Connection, seconds: float) -> int:
    """Delete deliveries that have ended, or have no webhook, and are older. Returns how many."""
    disabled = select(webhooks.c.id).where(webhooks.c.disabled_at.is_not(None))
    over = or_(deliveries.c.due_at.is_(None), deliveries.c.webhook_id.in_(disabled))
    removed = transaction.execute(
        delete(deliveries).where(over, deliveries.c.created_at < after(-seconds))
    )
    return int(removed.rowcount)
