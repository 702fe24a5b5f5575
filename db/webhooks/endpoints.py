"""Webhooks: the URLs of an owner, and the events that are delivered to each."""

import base64
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime

from sqlalchemy import Connection, delete, func, insert, select, update

from db.sql.clock import after, now
from db.tables import deliveries, webhooks
from db.vocabulary.errors import NotFound, RequestError

EVENTS = (
    "job.succeeded",
    "job.finished_with_errors",
    "job.cancelled",
    "job.expired",
    "job.paused",
    "batch.completed",
    "batch.failed",
    "batch.expired",
    "batch.cancelled",
)
#: How long receivers have to change over to a new secret.
FORMER_SECONDS = 86_400.0
MAX_WEBHOOKS = 20


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


_COLUMNS = [webhooks.c[field.name] for field in fields(Webhook)]


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
        select(*_COLUMNS).where(webhooks.c.id == webhook_id, webhooks.c.owner_id == owner_id)
    ).first()
    if row is None:
        raise NotFound(f"no such webhook: {webhook_id!r}")
    return Webhook(*row)


def of_owner(transaction: Connection, owner_id: int) -> list[Webhook]:
    """Return an owner's webhooks, oldest first."""
    rows = transaction.execute(
        select(*_COLUMNS)
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


def gone(transaction: Connection, webhook: Webhook) -> None:
    """Disable a webhook whose receiver answered 410. Safe to repeat."""
    transaction.execute(
        update(webhooks).where(webhooks.c.id == webhook.id).values(disabled_at=now())
    )
