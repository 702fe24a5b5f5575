"""The gate between claims and whoever stops a job: nothing is claimed after the stop has committed.

    enter    many claims at once, until they end
    close    a pause or a cancellation waits for the claims inside, and later ones wait for it

Locks of Postgres in memory (advisory locks), which queue fairly; a lock of the job's row would let
claims that follow each other closely pass a pause that waits. Jobs share a few gates, so that a
claim from many jobs takes few locks. SQLite's single writer needs none.
"""

import zlib
from collections.abc import Iterable

from sqlalchemy import Connection, func, select, text

_GATES = 32
#: Any number will do, so long as nothing else in the database uses it.
_FIRST_LOCK = 7_261_100
_ENTER = text(
    "SELECT pg_advisory_xact_lock_shared(gate) FROM unnest(CAST(:gates AS bigint[])) AS gate"
)


def enter(transaction: Connection, job_ids: Iterable[str]) -> None:
    """Enter the gates of jobs, until the transaction ends."""
    if transaction.dialect.name == "postgresql":
        transaction.execute(_ENTER, {"gates": sorted({_gate(job_id) for job_id in job_ids})})


def close(transaction: Connection, job_id: str) -> None:
    """Wait until no claim is inside a job's gate, and keep it closed until the transaction ends.

    Call it before anything is locked.
    """
    if transaction.dialect.name == "postgresql":
        transaction.execute(select(func.pg_advisory_xact_lock(_gate(job_id))))


def _gate(job_id: str) -> int:
    return _FIRST_LOCK + zlib.crc32(job_id.encode()) % _GATES
