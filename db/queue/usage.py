"""Usage: what each owner has used of each model on each day (in UTC), and what each job has used.

It is counted in the transaction that ends an item, so it is exact whatever dies, and it stays when
jobs are deleted. Each session has rows of its own, so that workers never wait for each other here;
`fold` sums up those of past days.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date
from typing import Any

from sqlalchemy import Connection, delete, func, select

from db.queue.lease import Lease
from db.sql.clock import now
from db.sql.statement import Statement
from db.tables import owners, sessions, stored, usage


@dataclass(slots=True)
class Amounts:
    """Amounts that add up.

    Attributes:
        items: Items with an answer, those of the cache included.
        failed: Items that failed finally.
        cached: Items that were answered from the answer cache; none of their tokens count.
        images: Images of answered items.
        device_seconds: Time on the device; what runs side by side shares it.
    """

    items: int = 0
    failed: int = 0
    cached: int = 0
    images: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    device_seconds: float = 0.0

    def add(self, other: "Amounts") -> None:
        """Add other amounts to these."""
        # Written out: it runs for every answer.
        self.items += other.items
        self.failed += other.failed
        self.cached += other.cached
        self.images += other.images
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.device_seconds += other.device_seconds


NAMES = tuple(field.name for field in fields(Amounts))
#: Amounts that a job's row has too; the others are its counts.
OF_JOB = ("cached", "images", "prompt_tokens", "completion_tokens", "device_seconds")


@dataclass(frozen=True, slots=True)
class DayUsage:
    """What an owner has used of a model on a day."""

    day: date
    owner: str
    model: str
    amounts: Amounts


#: What items of a job have used together, by the job's id, and one of their leases.
Used = dict[str, tuple[Lease, Amounts]]


def of_answers(
    answers: Iterable[tuple[Lease, dict[str, Any]]], device_seconds: Mapping[int, float]
) -> Used:
    """Sum up what answered items have used.

    Args:
        device_seconds: Time on the device, by item id.
    """
    used: Used = {}
    for lease, answer in answers:
        entry = used.get(lease.job_id)
        if entry is None:
            entry = used[lease.job_id] = (lease, Amounts())
        amounts = entry[1]
        amounts.items += 1
        amounts.images += len(lease.stored_references)
        if answer.get("cached"):
            amounts.cached += 1
            continue
        amounts.prompt_tokens += answer.get("prompt_tokens", 0)
        amounts.completion_tokens += answer.get("completion_tokens", 0)
        amounts.device_seconds += device_seconds.get(lease.item_id, 0.0)
    return used


def of_failures(leases: Iterable[Lease]) -> Used:
    """Sum up items that failed finally."""
    used: Used = {}
    for lease in leases:
        used.setdefault(lease.job_id, (lease, Amounts()))[1].failed += 1
    return used


_TODAY = Statement("SELECT {today}")
_RECORDS = (
    "{records:owner bigint, model text, session text, day text, items bigint, failed bigint,"
    " cached bigint, images bigint, prompt_tokens bigint, completion_tokens bigint,"
    " device_seconds float8}"
)
_ADD = Statement(
    f"""
    INSERT INTO usage (owner_id, model, day, session_id, {", ".join(NAMES)})
    SELECT owner, model, COALESCE(CAST(day AS {{date}}), {{today}}), session, {", ".join(NAMES)}
    FROM {_RECORDS} WHERE true
    ON CONFLICT (owner_id, model, day, session_id) DO UPDATE SET
        {", ".join(f"{name} = usage.{name} + excluded.{name}" for name in NAMES)}
    """  # noqa: S608 - names of columns
)


def add(transaction: Connection, used: Iterable[tuple[Lease, Amounts]]) -> None:
    """Count what ended items have used. Not safe to repeat: call it for leases that still held."""
    sums: dict[tuple[int, str, str], Amounts] = defaultdict(Amounts)
    for lease, amounts in used:
        sums[lease.owner_id, lease.model, lease.session_id].add(amounts)
    records = [
        {"owner": owner, "model": model, "session": session, "day": None, **asdict(sums[key])}
        for key in sorted(sums)
        for owner, model, session in [key]
    ]
    if records:
        _ADD.run(transaction, records=records)


def fold(transaction: Connection) -> int:
    """Sum up rows of past days whose sessions are dead. Returns how many; safe to repeat."""
    alive = select(sessions.c.id).where(sessions.c.alive_until > now())
    today = _TODAY.run(transaction).scalar_one()
    rows = transaction.execute(
        delete(usage)
        .where(usage.c.day < today, usage.c.session_id != "", usage.c.session_id.not_in(alive))
        .returning(*usage.c)
    ).all()
    sums: dict[tuple[int, str, date], Amounts] = defaultdict(Amounts)
    for row in rows:
        amounts = Amounts(*(getattr(row, name) for name in NAMES))
        sums[row.owner_id, row.model, row.day].add(amounts)
    records = [
        {"owner": owner, "model": model, "session": "", "day": str(day), **asdict(sums[key])}
        for key in sorted(sums)
        for owner, model, day in [key]
    ]
    if records:
        _ADD.run(transaction, records=records)
    return len(rows)


def by_day(
    transaction: Connection, owner_id: int | None, *, first: date, last: date
) -> list[DayUsage]:
    """Return usage by day, owner and model, in this order.

    Args:
        owner_id: One owner, or None for all.
        first: First day.
        last: Last day, included.
    """
    query = (
        select(
            usage.c.day,
            owners.c.name,
            usage.c.model,
            *(func.sum(usage.c[name]).label(name) for name in NAMES),
        )
        .join(owners, owners.c.id == usage.c.owner_id)
        .where(usage.c.day.between(first, last))
        .group_by(usage.c.day, owners.c.name, usage.c.model)
        .order_by(usage.c.day, owners.c.name, usage.c.model)
    )
    if owner_id is not None:
        query = query.where(usage.c.owner_id == owner_id)
    return [
        DayUsage(day, owner, model, _amounts(counts, seconds))
        for day, owner, model, *counts, seconds in transaction.execute(query)
    ]


_SAMPLE_STORED = Statement(
    """
    INSERT INTO stored (owner_id, day, stored_bytes)
    SELECT owners.id, {today}, COALESCE(SUM(size_bytes), 0)
    FROM owners LEFT JOIN (
        SELECT owner_id, size_bytes FROM blobs UNION ALL SELECT owner_id, size_bytes FROM files
    ) AS held ON held.owner_id = owners.id
    GROUP BY owners.id
    HAVING SUM(size_bytes) > 0
        OR EXISTS (SELECT 1 FROM stored WHERE owner_id = owners.id AND day = {today})
    ORDER BY owners.id
    ON CONFLICT (owner_id, day) DO UPDATE SET stored_bytes = excluded.stored_bytes
    """
)


@dataclass(frozen=True, slots=True)
class DayStored:
    """Bytes of images and files that an owner had stored on a day, as they were counted last."""

    day: date
    owner: str
    stored_bytes: int


def sample_stored(transaction: Connection) -> None:
    """Record the bytes that each owner has stored today. Safe to repeat."""
    _SAMPLE_STORED.run(transaction)


def stored_by_day(
    transaction: Connection, owner_id: int | None, *, first: date, last: date
) -> list[DayStored]:
    """Return stored bytes by day and owner, in this order; see `by_day`."""
    query = (
        select(stored.c.day, owners.c.name, stored.c.stored_bytes)
        .join(owners, owners.c.id == stored.c.owner_id)
        .where(stored.c.day.between(first, last))
        .order_by(stored.c.day, owners.c.name)
    )
    if owner_id is not None:
        query = query.where(stored.c.owner_id == owner_id)
    return [DayStored(*row) for row in transaction.execute(query)]


def _amounts(counts: Sequence[Any], seconds: Any) -> Amounts:
    # Sums of integers are decimals in Postgres.
    values: list[Any] = [*map(int, counts), float(seconds)]
    return Amounts(*values)
