"""Garbage collection of images that nothing uses.

    image ─▶ unused for long, and in no item ─▶ marked ─▶ an hour later: bytes, then row

Whoever stores an image calls `known_images.mark_used` first, which removes a mark or waits until
the image is gone. So bytes are never removed under a row that somebody relies on.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, and_, select, update

from db.images.known_images import GRACE_SECONDS
from db.sql.clock import after, now
from db.sql.fair import first_of_each_owner
from db.tables import blobs, items, jobs
from db.vocabulary.errors import NotFound
from db.vocabulary.requests import blob_digests, example_references, image_references


def owners_with_unused(transaction: Connection, keep_seconds: float) -> list[int]:
    """Owners of unmarked images that were not used for `keep_seconds`."""
    rows = transaction.execute(
        select(blobs.c.owner_id)
        .where(blobs.c.used_at < after(-keep_seconds), blobs.c.collecting_at.is_(None))
        .group_by(blobs.c.owner_id)
    )
    return list(rows.scalars())


def references(
    transaction: Connection, *, beyond: int, limit: int
) -> tuple[set[tuple[int, str]], int | None]:
    """Owners and digests that one page of all items refers to, and the page's last id."""
    rows = transaction.execute(
        select(
            items.c.id,
            items.c.owner_id,
            items.c.images,
            items.c.examples,
            # Not the whole request: a page of long texts would fill the memory.
            items.c.request["images"].label("asked_images"),
            items.c.request["examples"].label("asked_examples"),
        )
        .where(items.c.id > beyond)
        .order_by(items.c.id)
        .limit(limit)
    ).all()
    named = {
        (row.owner_id, digest)
        for row in rows
        for digest in blob_digests(
            [
                *_named({"images": row.asked_images or [], "examples": row.asked_examples or []}),
                *(row.images or ()),
                *(row.examples or ()),
            ]
        )
    }
    return named, rows[-1].id if rows else None


def references_of_jobs(transaction: Connection) -> Iterator[tuple[int, str]]:
    """Owners and digests that jobs refer to themselves: shared examples."""
    rows = transaction.execute(select(jobs.c.owner_id, jobs.c.defaults, jobs.c.examples))
    for row in rows:
        for digest in blob_digests([*_named(row.defaults), *(row.examples or ())]):
            yield row.owner_id, digest


def _named(request: dict[str, Any]) -> list[str]:
    return [*image_references(request), *example_references(request)]


def unused(
    transaction: Connection, owner_id: int, keep_seconds: float, *, beyond: str, limit: int
) -> list[str]:
    """Some digests that were not used for `keep_seconds`, in order."""
    rows = transaction.execute(
        select(blobs.c.digest)
        .where(
            blobs.c.owner_id == owner_id,
            blobs.c.digest > beyond,
            blobs.c.used_at < after(-keep_seconds),
            blobs.c.collecting_at.is_(None),
        )
        .order_by(blobs.c.digest)
        .limit(limit)
    )
    return list(rows.scalars())


def mark_for_collection(
    transaction: Connection, owner_id: int, digests: Sequence[str], keep_seconds: float
) -> int:
    """Mark unused images for garbage collection. Returns how many."""
    unused = and_(
        blobs.c.owner_id == owner_id,
        blobs.c.digest.in_(list(digests)),
        blobs.c.used_at < after(-keep_seconds),
    )
    # Locked in the order in which uses are noted, so that the two never wait in a circle.
    transaction.execute(
        select(blobs.c.digest).where(unused).order_by(blobs.c.digest).with_for_update()
    ).all()
    marked = transaction.execute(update(blobs).where(unused).values(collecting_at=now()))
    return int(marked.rowcount)


def delete_image(transaction: Connection, owner_id: int, digest: str) -> None:
    """Have an image collected at the next round, whoever still refers to it.

    Raises:
        NotFound: The owner has none of this digest.
    """
    deleted = transaction.execute(
        update(blobs)
        .where(blobs.c.owner_id == owner_id, blobs.c.digest == digest)
        .values(collecting_at=after(-2 * GRACE_SECONDS))
    )
    if not deleted.rowcount:
        raise NotFound(f"no such image: {digest}")


def marked_images(transaction: Connection, most: int) -> list[tuple[int, str]]:
    """Return owners and digests of images marked long enough ago, at most so many of each owner."""
    query = select(blobs.c.owner_id, blobs.c.digest).where(
        blobs.c.collecting_at < after(-GRACE_SECONDS)
    )
    rows = transaction.execute(
        first_of_each_owner(query, blobs.c.owner_id, blobs.c.digest, most)
    ).all()
    return sorted((row.owner_id, row.digest) for row in rows)


def hold_marked(transaction: Connection, owner_id: int, digest: str) -> bool:
    """Lock a marked image until the transaction ends; False if it is not marked any more."""
    held = transaction.execute(
        select(blobs.c.digest)
        .where(
            blobs.c.owner_id == owner_id,
            blobs.c.digest == digest,
            blobs.c.collecting_at < after(-GRACE_SECONDS),
        )
        .with_for_update()
    ).first()
    return held is not None
