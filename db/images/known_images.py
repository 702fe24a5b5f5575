"""The table of known images: which bytes an owner has stored, and the results of checking them.

    mark_used ─▶ store the bytes ─▶ add ─▶ unchecked ──record_checks──▶ ok, or an error code

A digest is checked once for each owner, however many items refer to it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from db.sql.clock import after, now
from db.tables import blobs
from db.vocabulary.requests import blob_digests

#: Most digests in one statement.
LOOKUP = 5_000
OK = "ok"
#: Time between marking an unused image and its garbage collection.
GRACE_SECONDS = 3_600.0
#: A use is not recorded again within this time.
TOUCH_SECONDS = 3_600.0


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Result of checking an image: "ok" or the code of an ItemError; sizes in pixels."""

    code: str
    message: str | None = None
    format: str | None = None
    width: int | None = None
    height: int | None = None


def add(transaction: Connection, owner_id: int, sizes: dict[str, int]) -> None:
    """Record that blobs are stored: digest → size in bytes. Safe to repeat."""
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


def mark_used(
    transaction: Connection, owner_id: int, digests: Collection[str], *, storing: bool = False
) -> None:
    """Record that images are in use, so that they are not garbage-collected. Safe to repeat.

    An image whose grace period is over stays marked, and `get` and `stored` do not report it.

    Args:
        storing: The caller is about to store the bytes. Deletes the row of an image whose grace
            period is over, so that the collector skips it; waits if the collector holds it now.
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


def expect_upload(transaction: Connection, owner_id: int, digests: Collection[str]) -> None:
    """Restart the grace period of marked images that may be uploaded within minutes.

    They stay marked, so `stored` does not report them: their bytes may never arrive.
    """
    mark_used(transaction, owner_id, digests)
    for some in _chunks(sorted(digests)):
        marked = and_(
            blobs.c.owner_id == owner_id,
            blobs.c.digest.in_(some),
            blobs.c.collecting_at.is_not(None),
        )
        if _lock(transaction, marked):
            transaction.execute(update(blobs).where(marked).values(collecting_at=now()))


def _lock(transaction: Connection, chosen: ColumnElement[bool]) -> bool:
    """Lock rows in order, so that two transactions cannot deadlock. False if there are none."""
    found = transaction.execute(
        select(blobs.c.digest).where(chosen).order_by(blobs.c.digest).with_for_update()
    )
    return bool(found.all())


def remove(transaction: Connection, owner_id: int, digest: str) -> None:
    """Delete the row of an image whose bytes are missing, so that it is stored again."""
    transaction.execute(delete(blobs).where(blobs.c.owner_id == owner_id, blobs.c.digest == digest))


def get(transaction: Connection, owner_id: int, digests: Collection[str]) -> dict[str, CheckResult]:
    """Return the check results of an owner's images, by digest."""
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
        found.update({digest: CheckResult(*values) for digest, *values in rows})
    return found


def stored(transaction: Connection, owner_id: int, digests: Collection[str]) -> set[str]:
    """Return those of `digests` whose bytes this owner has stored."""
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
    """Return those `blob:` references whose bytes were checked and found good."""
    check_results = get(transaction, owner_id, blob_digests(references))
    return {
        f"blob:{digest}"
        for digest, check_result in check_results.items()
        if check_result.code == OK
    }


def record_checks(transaction: Connection, found: Mapping[tuple[int, str], CheckResult]) -> None:
    """Record check results by owner and digest. The first of an image stays; safe to repeat."""
    if not found:
        return
    rows = [
        {
            "owner": owner_id,
            "judged": digest,
            "verdict": check_result.code,
            "verdict_message": check_result.message,
            "format": check_result.format,
            "width": check_result.width,
            "height": check_result.height,
        }
        # In order, so that two workers with the same images cannot deadlock.
        for (owner_id, digest), check_result in sorted(found.items())
    ]
    unchecked = and_(
        blobs.c.owner_id == bindparam("owner"),
        blobs.c.digest == bindparam("judged"),
        blobs.c.verdict.is_(None),
    )
    transaction.execute(update(blobs).where(unchecked), rows)


def count_crash(transaction: Connection, owner_id: int, digest: str) -> int:
    """Count a child process that died on an image. Returns how many have so far."""
    row = transaction.execute(
        update(blobs)
        .where(blobs.c.owner_id == owner_id, blobs.c.digest == digest)
        .values(deaths=blobs.c.deaths + 1)
        .returning(blobs.c.deaths)
    ).one()
    return int(row.deaths)


def _chunks(digests: list[str]) -> list[list[str]]:
    return [digests[start : start + LOOKUP] for start in range(0, len(digests), LOOKUP)]
