"""The audit, for operators with a key of the scope `admin`."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from api.schemas import After, Limit, decode_cursor, encode_cursor
from api.services import Admin, Parts
from db import audit
from db.audit import AuditAction, AuditEntry
from db.owners import Caller
from db.sql.database import Transaction
from db.vocabulary.errors import RequestError

router = APIRouter(prefix="/v1/audit", tags=["operators"])


class AuditEntryOut(BaseModel):
    """One entry of the audit; entries are never changed or deleted."""

    id: int
    at: datetime
    actor: str = Field(description="The holder of the key, its id, or a user of the command line")
    key_id: str | None
    owner: str = Field(description="The owner that it concerns")
    action: str = Field(description="Such as key.create, owner.limit or job.delete")
    subject: str = Field(description="The key, owner, job, file or image")
    detail: dict[str, Any]

    @classmethod
    def of(cls, entry: AuditEntry) -> "AuditEntryOut":
        """Build from an entry."""
        return cls(
            id=entry.id,
            at=entry.created_at,
            actor=entry.actor,
            key_id=entry.key_id,
            owner=entry.owner,
            action=entry.action,
            subject=entry.subject,
            detail=entry.detail,
        )


class AuditPage(BaseModel):
    """A page of entries, newest first."""

    data: list[AuditEntryOut]
    next: str | None = Field(description="Cursor of the next page")


def record_action(
    transaction: Transaction, caller: Caller, action: AuditAction, subject: str, **detail: Any
) -> None:
    """Record what a caller does with something of its owner."""
    audit.record(
        transaction, caller.actor, action, owner=caller.owner.name, subject=subject, **detail
    )


@router.get("")
def list_audit(
    services: Parts,
    _: Admin,
    after: After = None,
    limit: Limit = 100,
) -> AuditPage:
    """List who made or revoked keys, changed limits, granted buckets, and deleted what."""
    before = _position(after) if after else None
    with services.database.snapshot() as transaction:
        found = audit.entries(transaction, before=before, limit=limit + 1)
    page = [AuditEntryOut.of(entry) for entry in found[:limit]]
    return AuditPage(
        data=page, next=encode_cursor(str(page[-1].id)) if len(found) > limit else None
    )


def _position(cursor: str) -> int:
    position = decode_cursor(cursor)
    if not position.isdecimal() or len(position) > 18:
        raise RequestError(f"invalid cursor: {cursor!r}", field="after")
    return int(position)
