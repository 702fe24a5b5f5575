"""Short ways to put a record into the state that a test is about."""

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sqlalchemy import text

from db import owners
from db.images import known_images
from db.queue import claims, leases, numbers, sessions, submissions
from db.queue.lease import Failure, Lease, RetryPolicy
from db.queue.submissions import NewItem, NewJob
from db.sql.database import Database, Transaction
from db.vocabulary.errors import ImageUnreadable
from db.vocabulary.states import Stage

DIGEST = "0123456789abcdef" * 4
IMAGE = f"blob:{DIGEST}"
MODEL = "echo"


def owner(database: Database, name: str = "ada") -> int:
    with database.transaction() as transaction:
        return owner_in(transaction, name)


def owner_in(transaction: Transaction, name: str = "ada") -> int:
    return owners.get_or_create(transaction, name).id


def checked_image(database: Database, owner_id: int, digest: str = DIGEST) -> str:
    """An image that intake has already found good."""
    with database.transaction() as transaction:
        known_images.add(transaction, owner_id, {digest: 10})
        good = known_images.CheckResult(known_images.OK, format="PNG", width=4, height=4)
        known_images.record_checks(transaction, {(owner_id, digest): good})
    return f"blob:{digest}"


def submit(transaction: Transaction, new: NewJob, items: Sequence[NewItem]) -> str:
    """Submit a job; returns its id."""
    return submissions.submit(transaction, new, items)[0]


def job(database: Database, items: int = 1, *, owner_id: int | None = None, **fields: Any) -> str:
    """A sealed job whose items are ready for the engine."""
    owner_id = owner_id or owner(database)
    image = checked_image(database, owner_id)
    new = NewJob(owner_id, fields.pop("model", MODEL), fields.pop("defaults", {}), **fields)
    requests = [NewItem({"images": [image], "prompt": f"number {n}"}) for n in range(items)]
    with database.transaction() as transaction:
        return submit(transaction, new, requests)


def session(
    database: Database,
    worker: str = "w1",
    *,
    lease_seconds: float = 60.0,
    variant: str | None = None,
) -> str:
    with database.transaction() as transaction:
        return sessions.start(
            transaction,
            worker=worker,
            stage=Stage.GENERATE,
            model=MODEL,
            lease_seconds=lease_seconds,
            variant=variant,
        )


def claim(database: Database, session_id: str, limit: int = 100) -> list[Lease]:
    with database.transaction() as transaction:
        return claims.claim(
            transaction, session=session_id, stage=Stage.GENERATE, model=MODEL, limit=limit
        )


def complete(
    database: Database,
    taken: list[Lease],
    text: str = "an answer",
    reserved: Mapping[str, int] = MappingProxyType({}),
) -> set[int]:
    answers = [(lease, {"text": text}) for lease in taken]
    with database.transaction() as transaction:
        return leases.complete(transaction, answers, {}, reserved)


def reserve(database: Database, taken: list[Lease]) -> dict[str, int]:
    """Reserve result numbers for all that was claimed."""
    wanted = Counter(lease.job_id for lease in taken)
    with database.transaction() as transaction:
        return numbers.reserve(transaction, wanted, taken[0].session_id)


def fail(database: Database, taken: list[Lease]) -> set[int]:
    failures = [Failure(lease, ImageUnreadable("no image")) for lease in taken]
    with database.transaction() as transaction:
        return leases.fail(transaction, failures, RetryPolicy(3, 1.0))


def kill(database: Database, session_id: str) -> None:
    """Let a session expire now, as if its worker had been silent for too long."""
    with database.transaction() as transaction:
        sessions.end(transaction, session_id)


def make_due(database: Database) -> None:
    """Let the wait of every retry be over."""
    with database.transaction() as transaction:
        transaction.execute(text("UPDATE items SET due_at = '2000-01-01 00:00:00.000000+00:00'"))


def age(database: Database, seconds: int, *columns: str) -> None:
    """Let times be that much earlier: columns as "table.column"."""
    with database.transaction() as transaction:
        for table, column in (name.split(".") for name in columns):
            earlier = (
                f"strftime('%Y-%m-%d %H:%M:%f000', {column}, '-{seconds} seconds')"
                if database.is_sqlite
                else f"{column} - interval '{seconds} seconds'"
            )
            transaction.exec_driver_sql(f"UPDATE {table} SET {column} = {earlier}")


def counts(database: Database, job_id: str) -> dict[str, int]:
    """A job's counts, after checking them against its items."""
    names = ("queued", "running", "succeeded", "failed", "cancelled")
    with database.snapshot() as transaction:
        row = transaction.execute(
            text(f"SELECT total, {', '.join(names)} FROM jobs WHERE id = :id"), {"id": job_id}
        ).one()
        found = transaction.execute(
            text("SELECT state, count(*) FROM items WHERE job_id = :id GROUP BY state"),
            {"id": job_id},
        )
        in_items: dict[str, int] = {row[0]: row[1] for row in found}
    told = {name: getattr(row, name) for name in names}
    assert told == {name: in_items.get(name, 0) for name in names}
    assert row.total == sum(told.values())
    return {name: count for name, count in told.items() if count}
