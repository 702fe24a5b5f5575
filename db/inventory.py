"""The inventory: which keys of the blob store the database knows, page by page.

    OWNER/images/ab/DIGEST   a row of blobs          OWNER/spool/…    jobs.spool_key
    OWNER/results/JOB.jsonl  a job that is there     OWNER/files/ID   a row of files

A key of any other form is not the service's, and is left alone.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select, tuple_

from db.blobs.store import file_key, image_key, results_key
from db.sql.statement import Statement
from db.tables import blobs, files, jobs

#: Rows that are read at once.
PAGE_ROWS = 2_000


@dataclass(frozen=True, slots=True)
class Expected:
    """A blob that a row refers to; `size_bytes` is None where the row does not know it."""

    key: str
    owner_id: int
    name: str
    size_bytes: int | None = None


#: What a crash may leave beside the files of a folder.
_ASIDE = r"\.new-[0-9a-f]{16}"
#: The forms of the service's keys.
_OURS = re.compile(
    rf"[1-9][0-9]*/(?:images/[0-9a-f]{{2}}/(?:[0-9a-f]{{64}}|{_ASIDE})"
    rf"|spool/(?:[0-9a-f]{{32}}\.jsonl|{_ASIDE})"
    rf"|results/(?:job_[0-9a-f]{{28}}\.jsonl|{_ASIDE})"
    rf"|files/(?:file-[0-9a-f]{{28}}(?:-output|-errors)?|{_ASIDE}))"
)
#: Of them those that are written once, under a new name: nobody can be about to write one again.
_TRANSIENT = re.compile(
    rf"[0-9]+/(?:spool/[0-9a-f]{{32}}\.jsonl|files/file-[0-9a-f]{{28}}|(?:.*/)?{_ASIDE})"
)
_OWNER_AGES = Statement("SELECT id, {seconds_since:created_at} AS age FROM owners")


def is_ours(key: str) -> bool:
    """True if a key has a form that the service writes."""
    return _OURS.fullmatch(key) is not None


def is_transient(key: str) -> bool:
    """True for what a submission or an upload leaves behind that never became a row."""
    return is_ours(key) and _TRANSIENT.fullmatch(key) is not None


def owner_ages(transaction: Connection) -> dict[str, float]:
    """Return how long ago each owner was made, in seconds, by its id as keys have it."""
    return {str(row.id): float(row.age) for row in _OWNER_AGES.run(transaction)}


def known_keys(transaction: Connection, keys: Sequence[str]) -> set[str]:
    """Return those of some keys that a row refers to."""
    by_kind: dict[str, list[str]] = {}
    for key in keys:
        by_kind.setdefault("".join(key.split("/")[1:2]), []).append(key)
    known: set[str] = set()
    for kind, some in by_kind.items():
        if find := _FIND.get(kind):
            known |= find(transaction, some)
    return known.intersection(keys)


def _names(keys: Sequence[str]) -> list[str]:
    return [key.rpartition("/")[2].removesuffix(".jsonl") for key in keys]


def _find_images(transaction: Connection, keys: Sequence[str]) -> set[str]:
    rows = transaction.execute(
        select(blobs.c.owner_id, blobs.c.digest).where(blobs.c.digest.in_(_names(keys)))
    )
    return {image_key(row.owner_id, row.digest) for row in rows}


def _find_spools(transaction: Connection, keys: Sequence[str]) -> set[str]:
    rows = transaction.execute(select(jobs.c.spool_key).where(jobs.c.spool_key.in_(keys)))
    return set(rows.scalars())


def _find_results(transaction: Connection, keys: Sequence[str]) -> set[str]:
    rows = transaction.execute(
        select(jobs.c.owner_id, jobs.c.id).where(jobs.c.id.in_(_names(keys)))
    )
    return {results_key(row.owner_id, row.id) for row in rows}


def _find_files(transaction: Connection, keys: Sequence[str]) -> set[str]:
    rows = transaction.execute(
        select(files.c.owner_id, files.c.id).where(files.c.id.in_(_names(keys)))
    )
    return {file_key(row.owner_id, row.id) for row in rows}


_FIND = {
    "images": _find_images,
    "spool": _find_spools,
    "results": _find_results,
    "files": _find_files,
}


def expected_images(transaction: Connection, beyond: Expected | None) -> list[Expected]:
    """Return a page of images, in order, from `beyond` on."""
    place = tuple_(blobs.c.owner_id, blobs.c.digest)
    query = select(blobs.c.owner_id, blobs.c.digest, blobs.c.size_bytes).where(
        blobs.c.collecting_at.is_(None)
    )
    if beyond:
        query = query.where(place > tuple_(beyond.owner_id, beyond.name))
    rows = transaction.execute(
        query.order_by(blobs.c.owner_id, blobs.c.digest).limit(PAGE_ROWS)
    ).all()
    return [
        Expected(image_key(row.owner_id, row.digest), row.owner_id, row.digest, row.size_bytes)
        for row in rows
    ]


def expected_files(transaction: Connection, beyond: Expected | None) -> list[Expected]:
    """Return a page of files, in order, from `beyond` on."""
    query = select(files.c.id, files.c.owner_id, files.c.size_bytes)
    if beyond:
        query = query.where(files.c.id > beyond.name)
    rows = transaction.execute(query.order_by(files.c.id).limit(PAGE_ROWS)).all()
    return [
        Expected(file_key(row.owner_id, row.id), row.owner_id, row.id, row.size_bytes)
        for row in rows
    ]


def expected_of_jobs(transaction: Connection, beyond: Expected | None) -> list[Expected]:
    """Return spools and results of a page of jobs, in order, from `beyond` on."""
    query = select(jobs.c.id, jobs.c.owner_id, jobs.c.spool_key, jobs.c.results_key).where(
        jobs.c.deleted_at.is_(None),
        jobs.c.spool_key.is_not(None) | jobs.c.results_key.is_not(None),
    )
    if beyond:
        query = query.where(jobs.c.id > beyond.name)
    found = []
    for row in transaction.execute(query.order_by(jobs.c.id).limit(PAGE_ROWS)):
        keys = [row.spool_key, results_key(row.owner_id, row.id) if row.results_key else None]
        found += [Expected(key, row.owner_id, row.id) for key in keys if key]
    return found


#: Every kind of blob that rows refer to.
PAGES: Sequence[Callable[[Connection, Expected | None], list[Expected]]] = (
    expected_images,
    expected_files,
    expected_of_jobs,
)
