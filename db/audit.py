"""The audit: who made or revoked keys, changed limits, granted or deleted something, and when.

An entry is written in the transaction of what it records, so there is neither one without the
other. Entries are never changed or deleted.
"""

from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, insert, select

from db.sql.clock import now
from db.tables import audit


class AuditAction(StrEnum):
    """What is recorded."""

    CREATE_KEY = "key.create"
    REVOKE_KEY = "key.revoke"
    LIMIT_OWNER = "owner.limit"
    GRANT_BUCKET = "bucket.grant"
    DELETE_JOB = "job.delete"
    DELETE_FILE = "file.delete"
    DELETE_IMAGE = "image.delete"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something: the holder of a key, or a name of the operating system."""

    name: str
    key_id: str | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One entry.

    Attributes:
        owner: Name of the owner that it concerns.
        action: A word of AuditAction, of this release or of a newer one beside it.
        subject: Id or name of the key, job, file or image.
        detail: Further facts, by action.
    """

    id: int
    created_at: datetime
    actor: str
    key_id: str | None
    owner: str
    action: str
    subject: str
    detail: dict[str, Any]


def record(
    transaction: Connection,
    actor: Actor,
    action: AuditAction,
    *,
    owner: str,
    subject: str,
    **detail: Any,
) -> None:
    """Record what the transaction does."""
    transaction.execute(
        insert(audit).values(
            created_at=now(),
            actor=actor.name,
            key_id=actor.key_id,
            owner=owner,
            action=action.value,
            subject=subject,
            detail=detail,
        )
    )


def entries(transaction: Connection, *, before: int | None, limit: int) -> list[AuditEntry]:
    """Return entries, newest first; `before` is the last id of the previous page."""
    query = select(*(audit.c[field.name] for field in fields(AuditEntry)))
    if before is not None:
        query = query.where(audit.c.id < before)
    rows = transaction.execute(query.order_by(audit.c.id.desc()).limit(limit))
    return [AuditEntry(**row._mapping) for row in rows]
