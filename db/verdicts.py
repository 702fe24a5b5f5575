"""What is known of an owner's images: which bytes are stored, and what checking them found.

    touch ─▶ store ─▶ add ─▶ unchecked ──judge──▶ ok (format, width, height), or an error code

A digest is checked once for each owner, however many items refer to it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from db.clock import after, now
from db.requests import blob_digests
from db.tables import blobs

#: Most digests looked up in one statement.
LOOKUP = 5_000
OK = "ok"
#: A marked image is removed so much later.
GRACE_SECONDS = 3_600.0
#: A use is not noted again so soon.
TOUCH_SECONDS = 3_600.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found. `code` is "ok" or that of an ItemError; sizes are pixels."""

    code: str
    message: str | None = None
    format: str | None = None
    width: int | None = None
    height: int | None = None


def add(transaction: Connection, owner_id: int, sizes: dict[str, int]) -> None:
    """Note that blobs are stored: digest → size in bytes. Safe to repeat."""
    rows = [
        {"owner_id": owner_id, "digest": digest, "size_bytes": size}
        for digest, size in sorted(sizes.items())
    ]
    if not rows:
        return
    dialect = postgresql if transaction.dialect.name == "postgresql" else sqlite
    times = {"created_at": now(), "used_at": now()}
    statement = dialect.insert(blobs).values(times).on_conflict_do_nothing()
    transaction.execute(statement, rows)


def touch(
    transaction: Connection, owner_id: int, digests: Collection[str], *, storing: bool = False
) -> None:
    """Say that an owner's images are used, so that they are not collected. Safe to repeat.

    What was marked so long ago that its bytes may be gone stays as it is, and is not known.

    Args:
        storing: The bytes are about to be stored: what is being collected at this moment is
            waited for, and what would be soon is forgotten, so that it is not collected then.
    """
    for some in _chunks(sorted(digests)):
        stale = or_(blobs.c.collecting_at.is_not(None), blobs.c.used_at < after(-TOUCH_SECONDS))
        theirs = and_(blobs.c.owner_id == owner_id, blobs.c.digest.in_(some), stale)
        if _lock(transaction, theirs):
            dead = and_(
                blobs.c.collecting_at.is_not(None), blobs.c.collecting_at < after(-GRACE_SECONDS)
            )
            if storing:
                transaction.execute(delete(blobs).where(theirs, dead))
            transaction.execute(
                update(blobs).where(theirs, ~dead).values(used_at=now(), collecting_at=None)
            )


def expect(transaction: Connection, owner_id: int, digests: Collection[str]) -> None:
    """Say that images may be stored within minutes: what waits to be collected waits anew.

    They are not known until they are used, because their bytes may never come.
    """
    touch(transaction, owner_id, digests)
    for some in _chunks(sorted(digests)):
        marked = and_(
            blobs.c.owner_id == owner_id,
            blobs.c.digest.in_(some),
            blobs.c.collecting_at.is_not(None),
        )
        if _lock(transaction, marked):
            transaction.execute(update(blobs).where(marked).values(collecting_at=now()))


def _lock(transaction: Connection, chosen: ColumnElement[bool]) -> bool:
    """Lock rows in order, so that two who share images do not wait in a circle. False if none."""
    found = transaction.execute(
        select(blobs.c.digest).where(chosen).order_by(blobs.c.digest).with_for_update()
    )
    return bool(found.all())


def forget(transaction: Connection, owner_id: int, digest: str) -> None:
    """Forget an image whose bytes are not there, so that it is stored again. Safe to repeat."""
    transaction.execute(delete(blobs).where(blobs.c.owner_id == owner_id, blobs.c.digest == digest))


def get(transaction: Connection, owner_id: int, digests: Collection[str]) -> dict[str, Verdict]:
    """The verdicts there are on an owner's blobs, by digest."""
    columns = [blobs.c.verdict, blobs.c.verdict_message, blobs.c.format, blobs.c.width]
    found = {}
    for some in _chunks(sorted(digests)):
        rows = transaction.execute(
            select(blobs.c.digest, *columns, blobs.c.height).where(
                blobs.c.owner_id == owner_id,
                blobs.c.digest.in_(some),
                blobs.c.verdict.is_not(None),
                blobs.c.collecting_at.is_(None),
            )
        )
        found.update({digest: Verdict(*values) for digest, *values in rows})
    return found


def stored(transaction: Connection, owner_id: int, digests: Collection[str]) -> set[str]:
    """Those of `digests` whose bytes this owner has stored."""
    found: set[str] = set()
    for some in _chunks(sorted(digests)):
        rows = transaction.execute(
            select(blobs.c.digest).where(
                blobs.c.owner_id == owner_id,
                blobs.c.digest.in_(some),
                blobs.c.collecting_at.is_(None),
            )
        )
        found.update(rows.scalars())
    return found


def checked(transaction: Connection, owner_id: int, references: Collection[str]) -> set[str]:
    """Those `blob:` references whose bytes were checked and found good."""
    verdicts = get(transaction, owner_id, blob_digests(references))
    return {f"blob:{digest}" for digest, verdict in verdicts.items() if verdict.code == OK}


def judge(transaction: Connection, found: Mapping[tuple[int, str], Verdict]) -> None:
    """Record verdicts by owner and digest. The first on a blob stays; safe to repeat."""
    if not found:
        return
    rows = [
        {
            "owner": owner_id,
            "judged": digest,
            "verdict": verdict.code,
            "verdict_message": verdict.message,
            "format": verdict.format,
            "width": verdict.width,
            "height": verdict.height,
        }
        # In order: two workers that found the same must not wait in a circle.
        for (owner_id, digest), verdict in sorted(found.items())
    ]
    unjudged = and_(
        blobs.c.owner_id == bindparam("owner"),
        blobs.c.digest == bindparam("judged"),
        blobs.c.verdict.is_(None),
    )
    transaction.execute(update(blobs).where(unjudged), rows)


def count_death(transaction: Connection, owner_id: int, digest: str) -> int:
    """Count a child process that died on a blob. Returns how many did so far."""
    row = transaction.execute(
        update(blobs)
        .where(blobs.c.owner_id == owner_id, blobs.c.digest == digest)
        .values(deaths=blobs.c.deaths + 1)
        .returning(blobs.c.deaths)
    ).one()
    return int(row.deaths)


def _chunks(digests: list[str]) -> list[list[str]]:
    return [digests[start : start + LOOKUP] for start in range(0, len(digests), LOOKUP)]
