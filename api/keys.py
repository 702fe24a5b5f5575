"""API keys and owners, for operators with a key of the scope `admin`."""

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from api.schemas import Name
from api.services import Admin, Parts
from db import audit, owners
from db.audit import Actor, AuditAction
from db.owners import USUAL_SCOPES, ApiKey, Scope
from db.queue import quotas
from db.sql.database import Database, Transaction
from db.vocabulary.limits import OwnerLimits

router = APIRouter(prefix="/v1", tags=["operators"])

OwnerName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Quota = Annotated[int, Field(ge=0, lt=2**53)]


class KeyIn(BaseModel):
    """A key to create."""

    model_config = ConfigDict(extra="forbid")

    owner: OwnerName
    note: Name = ""
    holder: Annotated[Name, Field(max_length=100)] = Field(
        "", description="The person or program that gets the key, for the audit and for reviews"
    )
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=len(Scope))] = Field(
        list(USUAL_SCOPES), description="What it may do"
    )
    days: Annotated[int, Field(ge=1, le=3_650)] | None = Field(
        None, description="Valid for so long; for ever if left out"
    )


class KeyOut(BaseModel):
    """A key without its secret."""

    id: str
    owner: str
    note: str
    holder: str = Field(description="The person or program that has the key; empty if unnamed")
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="To within a minute")

    @classmethod
    def of(cls, key: ApiKey) -> "KeyOut":
        """Build from a key."""
        return cls(
            id=key.id,
            owner=key.owner,
            note=key.note,
            holder=key.holder,
            scopes=key.scopes.split(),
            created_at=key.created_at,
            expires_at=key.expires_at,
            revoked_at=key.revoked_at,
            last_used_at=key.last_used_at,
        )


class NewKeyOut(KeyOut):
    """A key that was just created."""

    key: str = Field(description="The key itself; shown this once")


class LimitsIn(BaseModel):
    """Limits of an owner; null uses the default of the settings, 0 is no limit."""

    model_config = ConfigDict(extra="forbid")

    weight: Annotated[float, Field(gt=0, le=1_000)] = Field(
        1.0, description="Share of the workers, beside those of others who want some"
    )
    max_queued_items: Quota | None = None
    max_job_items: Quota | None = None
    max_stored_bytes: Quota | None = None


class OwnerOut(BaseModel):
    """An owner with its limits and its usage."""

    owner: str
    limits: LimitsIn
    queued_items: int
    stored_bytes: int


def make_key(database: Database, wanted: KeyIn, actor: Actor) -> NewKeyOut:
    """Create an API key, and its owner if there is none of that name.

    Args:
        actor: Who creates it, for the audit.
    """
    expires_at = datetime.now(UTC) + timedelta(days=wanted.days) if wanted.days else None
    with database.transaction() as transaction:
        found = owners.get_or_create(transaction, wanted.owner)
        key = owners.create_key(
            transaction,
            found,
            note=wanted.note,
            holder=wanted.holder,
            scopes=wanted.scopes,
            expires_at=expires_at,
        )
        made = owners.key(transaction, owners.key_id(key))
        audit.record(
            transaction,
            actor,
            AuditAction.CREATE_KEY,
            owner=found.name,
            subject=made.id,
            scopes=made.scopes.split(),
            holder=made.holder,
            note=made.note,
        )
    return NewKeyOut(key=key, **KeyOut.of(made).model_dump())


@router.post("/keys", status_code=201)
def create_key(wanted: KeyIn, services: Parts, admin: Admin) -> NewKeyOut:
    """Create an API key, and its owner if there is none of that name."""
    return make_key(services.database, wanted, admin.actor)


@router.get("/keys")
def list_keys(services: Parts, _: Admin) -> list[KeyOut]:
    """List all keys of all owners, oldest first."""
    with services.database.snapshot() as transaction:
        return [KeyOut.of(key) for key in owners.keys(transaction)]


@router.delete("/keys/{key_id}", status_code=204)
def revoke_key(key_id: str, services: Parts, admin: Admin) -> None:
    """Revoke an API key at once."""
    end_key(services.database, key_id, admin.actor)


def end_key(database: Database, key_id: str, actor: Actor) -> None:
    """Revoke an API key.

    Raises:
        NotFound: There is no such key, or it was revoked before.
    """
    with database.transaction() as transaction:
        owners.revoke_key(transaction, key_id)
        owner = owners.key(transaction, key_id).owner
        audit.record(transaction, actor, AuditAction.REVOKE_KEY, owner=owner, subject=key_id)


@router.get("/owners/{owner}")
def get_owner(owner: str, services: Parts, _: Admin) -> OwnerOut:
    """Return an owner's limits, and what it has queued and stored."""
    with services.database.snapshot() as transaction:
        found = owners.named(transaction, owner)
        limits = owners.limits(transaction, found.id)
        used = quotas.usage(transaction, found.id)
    return OwnerOut(
        owner=found.name,
        limits=LimitsIn.model_validate(limits, from_attributes=True),
        queued_items=used.queued_items,
        stored_bytes=used.stored_bytes,
    )


@router.put("/owners/{owner}")
def limit_owner(owner: str, wanted: LimitsIn, services: Parts, admin: Admin) -> OwnerOut:
    """Set an owner's limits, from its next submission and the next claim on."""
    with services.database.transaction() as transaction:
        limits = OwnerLimits(**wanted.model_dump())
        owners.limit(transaction, owner, limits)
        record_limits(transaction, admin.actor, owner, limits)
    return get_owner(owner, services, admin)


def record_limits(transaction: Transaction, actor: Actor, owner: str, limits: OwnerLimits) -> None:
    """Record new limits of an owner in the audit."""
    audit.record(
        transaction,
        actor,
        AuditAction.LIMIT_OWNER,
        owner=owner,
        subject=owner,
        **dataclasses.asdict(limits),
    )
