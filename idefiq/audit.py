"""Entries of the audit as the service answers them."""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what.

    Attributes:
        actor: The holder of the key, its id, or a user of the command line.
        owner: The owner that it concerns.
        action: Such as key.create, owner.limit or job.delete.
        subject: The key, owner, job, file or image.
        detail: Further facts, by action.
    """

    id: int
    at: datetime
    actor: str
    key_id: str | None
    owner: str
    action: str
    subject: str
    detail: dict[str, Any]


def audit_page(body: dict[str, Any]) -> tuple[list[AuditEntry], str | None]:
    """Build a page from the service's JSON, with the cursor of the next one."""
    names = [field.name for field in fields(AuditEntry)]
    entries = [
        AuditEntry(**{n: one[n] for n in names} | {"at": datetime.fromisoformat(one["at"])})
        for one in body["data"]
    ]
    return entries, body["next"]
