"""Sessions of workers, and the models that engines offer.

A session is one start of a worker. Its heartbeat carries the leases of all its items at once:
past `alive_until` it is dead for good, its items are rescued, and a heartbeat that comes too
late is refused, so that the worker knows it has nothing any more.
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from db.queue import rescues
from db.sql.clock import after, now
from db.tables import items, models, sessions
from db.vocabulary.model_info import ModelInfo
from db.vocabulary.states import Stage

#: How long dead sessions are kept to be looked at.
KEPT_SECONDS = 86_400.0
#: No worker's lease is as long: a session beyond it was there before the clock was set back.
MAX_LEASE_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Offer:
    """A model that an engine has offered, and how many engines serve it now."""

    card: ModelInfo
    offered_at: datetime
    workers: int


def start(
    transaction: Connection,
    *,
    worker: str,
    stage: Stage,
    model: str | None,
    lease_seconds: float,
    variant: str | None = None,
) -> str:
    """Open a session for a worker, and end the sessions that earlier starts of it left behind.

    The name says which worker it is, so two live workers must not share one: the items of the
    older are queued again at once, and what it still answers is dropped.

    Args:
        variant: Variant of the model; see ModelInfo.variant. "" and None if it is not known.

    Returns:
        The id of the session.
    """
    transaction.execute(
        update(sessions)
        .where(sessions.c.worker == worker, sessions.c.alive_until > now())
        .values(alive_until=after(-1.0))
    )
    rescues.rescue(transaction)
    session = secrets.token_hex(12)
    transaction.execute(
        insert(sessions).values(
            id=session,
            worker=worker,
            stage=stage.value,
            model=model,
            variant=variant or None,
            started_at=now(),
            alive_until=after(lease_seconds),
        )
    )
    return session


def heartbeat(transaction: Connection, session: str, lease_seconds: float) -> bool:
    """Extend a live session. False if it has expired and its items are lost."""
    renewed = transaction.execute(
        update(sessions)
        .where(sessions.c.id == session, sessions.c.alive_until >= now())
        .values(alive_until=after(lease_seconds))
    )
    return bool(renewed.rowcount)


def shorten(transaction: Connection, lease_seconds: float) -> None:
    """Shorten the sessions that live longer than any lease: the clock was set back under them.

    Of them the living send their next heartbeat soon, and the dead die. Leases may differ between
    workers while the setting is changed, so only what no lease explains is shortened.
    """
    transaction.execute(
        update(sessions)
        .where(sessions.c.alive_until > after(max(20 * lease_seconds, MAX_LEASE_SECONDS)))
        .values(alive_until=after(lease_seconds))
    )


def end(transaction: Connection, session: str) -> None:
    """End a session; items that are still leased to it are rescued next."""
    transaction.execute(
        update(sessions).where(sessions.c.id == session).values(alive_until=after(-1.0))
    )


def alive(transaction: Connection) -> dict[tuple[Stage, str], int]:
    """Count live sessions by stage and model; those of intake have the model ""."""
    rows = transaction.execute(
        select(sessions.c.stage, sessions.c.model, func.count())
        .where(sessions.c.alive_until > now())
        .group_by(sessions.c.stage, sessions.c.model)
    )
    return {(Stage(stage), model or ""): count for stage, model, count in rows}


def delete_dead(transaction: Connection) -> int:
    """Delete sessions that died long ago and hold nothing. Returns how many."""
    held = select(items.c.session_id).where(items.c.state == "running")
    gone = transaction.execute(
        delete(sessions).where(
            sessions.c.alive_until < after(-KEPT_SECONDS), sessions.c.id.not_in(held)
        )
    )
    return int(gone.rowcount)


def offer(transaction: Connection, card: ModelInfo) -> None:
    """Record the model that an engine has loaded. Safe to repeat."""
    dialect = postgresql if transaction.dialect.name == "postgresql" else sqlite
    described = {"card": card.model_dump(mode="json"), "offered_at": now()}
    transaction.execute(
        dialect.insert(models)
        .values(name=card.name, **described)
        .on_conflict_do_update(index_elements=[models.c.name], set_=described)
    )


def offers(transaction: Connection) -> list[Offer]:
    """Return every model ever offered, by name, with the engines that serve it now."""
    loaded: list[str] = list(
        transaction.execute(
            select(sessions.c.model).where(
                sessions.c.stage == Stage.GENERATE.value, sessions.c.alive_until > now()
            )
        ).scalars()
    )
    rows = transaction.execute(
        select(models.c.name, models.c.card, models.c.offered_at).order_by(models.c.name)
    )
    return [
        Offer(ModelInfo.model_validate(row.card), row.offered_at, _count(loaded, row.name))
        for row in rows
    ]


def _count(loaded: Iterable[str], name: str) -> int:
    return sum(model == name for model in loaded)
