"""Webhooks and their outbox: deliveries are written in the transaction that ends a job.

    job ends ─▶ a delivery for each webhook that wants it ─▶ due ─▶ tried ─▶ delivered
                                                              ▲       │        or given up
                                                              └───────┘ later and later

The id of a delivery is derived from the event and the webhook, so each event has one delivery.
"""

import base64
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime

from sqlalchemy import Connection, delete, func, insert, or_, select, tuple_, update

from db.clock import after, now
from db.errors import NotFound, RequestError
from db.sql import Statement
from db.tables import deliveries, webhooks

EVENTS = (
    "job.succeeded",
    "job.finished_with_errors",
    "job.cancelled",
    "job.expired",
    "batch.completed",
    "batch.failed",
    "batch.expired",
    "batch.cancelled",
)
#: Seconds from one attempt to the next: more than three days in all.
SCHEDULE = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
#: How long receivers have to change over to a new secret.
FORMER_SECONDS = 86_400.0
MAX_WEBHOOKS = 20
#: Of one webhook so many are tried at a time.
OF_WEBHOOK = 4
#: What was taken and never heard of again is due again after this.
TRY_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Webhook:
    """An owner's URL, and the events that are delivered to it."""

    id: str
    owner_id: int
    url: str
    events: str
    secret: str
    former_secret: str | None
    former_until: datetime | None
    created_at: datetime
    disabled_at: datetime | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event for one webhook.

    Attributes:
        subject: The job or batch that has ended.
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


_WEBHOOK = [webhooks.c[field.name] for field in fields(Webhook)]
_DELIVERY = [deliveries.c[field.name] for field in fields(Delivery)]


# ---- webhooks -----------------------------------------------------------------------


def new_secret() -> str:
    """Create a secret in the form of Standard Webhooks."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"


def add(transaction: Connection, owner_id: int, url: str, events: Sequence[str]) -> Webhook:
    """Add a webhook for these events, or for all if there are none.

    Raises:
        RequestError: The owner has as many as it may have.
    """
    count = transaction.execute(
        select(func.count()).where(webhooks.c.owner_id == owner_id)
    ).scalar_one()
    if count >= MAX_WEBHOOKS:
        raise RequestError(f"the limit of {count} webhooks is reached; delete one")
    webhook_id = f"whk_{secrets.token_hex(10)}"
    transaction.execute(
        insert(webhooks).values(
            id=webhook_id,
            owner_id=owner_id,
            url=url,
            events=f" {' '.join(events or EVENTS)} ",
            secret=new_secret(),
            created_at=now(),
        )
    )
    return get(transaction, owner_id, webhook_id)


def get(transaction: Connection, owner_id: int, webhook_id: str) -> Webhook:
    """Return a webhook of this owner.

    Raises:
        NotFound: There is none, or it is another owner's.
    """
    row = transaction.execute(
        select(*_WEBHOOK).where(webhooks.c.id == webhook_id, webhooks.c.owner_id == owner_id)
    ).first()
    if row is None:
        raise NotFound(f"no such webhook: {webhook_id!r}")
    return Webhook(*row)


def of_owner(transaction: Connection, owner_id: int) -> list[Webhook]:
    """Return an owner's webhooks, oldest first."""
    rows = transaction.execute(
        select(*_WEBHOOK)
        .where(webhooks.c.owner_id == owner_id)
        .order_by(webhooks.c.created_at, webhooks.c.id)
    )
    return [Webhook(*row) for row in rows]


def remove(transaction: Connection, owner_id: int, webhook_id: str) -> None:
    """Delete a webhook and its deliveries."""
    get(transaction, owner_id, webhook_id)
    # Nothing is announced to it from here on: what is being announced is waited for.
    transaction.execute(select(webhooks.c.id).where(webhooks.c.id == webhook_id).with_for_update())
    transaction.execute(delete(deliveries).where(deliveries.c.webhook_id == webhook_id))
    transaction.execute(delete(webhooks).where(webhooks.c.id == webhook_id))


def rotate(transaction: Connection, owner_id: int, webhook_id: str) -> Webhook:
    """Give a webhook another secret; for a day the old one signs too."""
    found = get(transaction, owner_id, webhook_id)
    transaction.execute(
        update(webhooks)
        .where(webhooks.c.id == webhook_id)
        .values(secret=new_secret(), former_secret=found.secret, former_until=after(FORMER_SECONDS))
    )
    return get(transaction, owner_id, webhook_id)


def enable(transaction: Connection, owner_id: int, webhook_id: str, *, enabled: bool) -> Webhook:
    """Enable or disable a webhook. Safe to repeat."""
    get(transaction, owner_id, webhook_id)
    transaction.execute(
        update(webhooks)
        .where(webhooks.c.id == webhook_id)
        .values(disabled_at=None if enabled else now())
    )
    return get(transaction, owner_id, webhook_id)


# ---- the outbox ---------------------------------------------------------------------

_ANNOUNCE = Statement(
    """
    INSERT INTO deliveries (id, owner_id, webhook_id, event, subject, created_at, due_at)
    SELECT 'msg_' || records.subject || '_' || webhooks.id, webhooks.owner_id, webhooks.id,
        records.event, records.subject, {now}, {now}
    FROM webhooks JOIN {records:owner bigint, subject text, event text}
      ON records.owner = webhooks.owner_id
    WHERE disabled_at IS NULL AND events LIKE '% ' || records.event || ' %'
    {keep:webhooks}
    ON CONFLICT DO NOTHING
    """
)


@dataclass(frozen=True, slots=True)
class End:
    """The end of a job or batch: its owner, its id, and one of EVENTS."""

    owner: int
    subject: str
    event: str


def announce(transaction: Connection, ends: Iterable[End]) -> None:
    """Queue deliveries of what has just ended. Safe to repeat."""
    if records := [asdict(end) for end in ends]:
        _ANNOUNCE.run(transaction, records=records)


_DUE = Statement(
    """
    SELECT id FROM deliveries WHERE due_at <= {now} AND id IN (
        SELECT id FROM (
            SELECT id, row_number() OVER (PARTITION BY webhook_id ORDER BY due_at, id) AS place
            FROM deliveries WHERE due_at <= {now}
              AND webhook_id IN (SELECT id FROM webhooks WHERE disabled_at IS NULL)
        ) AS placed WHERE place <= :each ORDER BY place LIMIT :limit
    ) ORDER BY due_at, id {skip_locked}
    """,
    deliveries.c.id,
)


def take_due(transaction: Connection, limit: int) -> list[tuple[Delivery, Webhook]]:
    """Take due deliveries, a few of each webhook, so that a slow one delays no other.

    Whoever takes them may die: then they are due again after TRY_SECONDS.
    """
    taken = []
    for delivery_id in _DUE.run(transaction, each=OF_WEBHOOK, limit=limit).scalars().all():
        row = transaction.execute(
            update(deliveries)
            .where(deliveries.c.id == delivery_id)
            .values(attempts=deliveries.c.attempts + 1, due_at=after(TRY_SECONDS))
            .returning(*_DELIVERY)
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


def gone(transaction: Connection, webhook: Webhook) -> None:
    """Disable a webhook whose receiver answered 410. Safe to repeat."""
    transaction.execute(
        update(webhooks).where(webhooks.c.id == webhook.id).values(disabled_at=now())
    )


def log(
    transaction: Connection, owner_id: int, webhook_id: str, *, before: str | None, limit: int
) -> list[Delivery]:
    """Return a webhook's deliveries, newest first; `before` is the last id of the previous page."""
    get(transaction, owner_id, webhook_id)
    query = select(*_DELIVERY).where(deliveries.c.webhook_id == webhook_id)
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
        .returning(*_DELIVERY)
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
