"""Owners, their API keys, limits and grants.

A key is `idq_ID_SECRET`: looked up by its id, compared by the SHA-256 of the whole, shown once.
160 bits of chance need no slow hash.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from db.audit import Actor
from db.sql.clock import after, now
from db.tables import api_keys, grants, owners
from db.vocabulary.errors import NotFound, RequestError, Unauthorized
from db.vocabulary.limits import OwnerLimits


class Scope(StrEnum):
    """What an API key may do."""

    #: Send and steer: jobs, images, files, webhooks.
    SUBMIT = "submit"
    READ = "read"
    #: Judge answers.
    REVIEW = "review"
    #: Read the metrics of the service, which name owners.
    METRICS = "metrics"
    #: Keys and owners: what an operator does.
    ADMIN = "admin"


USUAL_SCOPES = (Scope.SUBMIT, Scope.READ, Scope.REVIEW)
#: A use of a key is not noted again so soon.
USE_SECONDS = 60.0
#: The owner of everything submitted without a key, which only a loopback service accepts.
LOCAL_OWNER = "local"
_KEY = re.compile(r"idq_([0-9a-f]{12})_([0-9a-f]{40})")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Owner:
    """The tenant that an API key belongs to."""

    id: int
    name: str


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key without its secret."""

    id: str
    owner: str
    note: str
    holder: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    scopes: str
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request, and with which key.

    Attributes:
        holder: Name of the person or program that has the key; "" if the key does not say.
        is_noted: True if the use of the key was recorded.
    """

    owner: Owner
    scopes: frozenset[str]
    key_id: str = ""
    holder: str = ""
    is_noted: bool = True

    @property
    def actor(self) -> Actor:
        """Who it is, for the audit."""
        return Actor(self.holder or self.key_id or self.owner.name, self.key_id or None)


def get_or_create(transaction: Connection, name: str) -> Owner:
    """Return the owner of this name, creating it if needed.

    Raises:
        RequestError: The name is not 1 to 63 of a-z, 0-9, dot, dash and underscore.
    """
    if not _NAME.fullmatch(name):
        raise RequestError(
            f"{name!r} is no owner name: use 1 to 63 of a-z 0-9 . _ -, a letter or digit first",
            field="owner",
        )
    query = select(owners.c.id, owners.c.name).where(owners.c.name == name)
    row = transaction.execute(query).first()
    if row is None:
        try:
            with transaction.begin_nested():
                transaction.execute(insert(owners).values(name=name, created_at=now()))
        except IntegrityError:
            pass  # made by somebody else since we looked
        row = transaction.execute(query).one()
    return Owner(row.id, row.name)


def named(transaction: Connection, name: str) -> Owner:
    """Return the owner of this name.

    Raises:
        NotFound: There is none.
    """
    row = transaction.execute(
        select(owners.c.id, owners.c.name).where(owners.c.name == name)
    ).first()
    if row is None:
        raise NotFound(f"no such owner: {name!r}")
    return Owner(row.id, row.name)


def limits(transaction: Connection, owner_id: int) -> OwnerLimits:
    """Return the limits of an owner."""
    columns = [owners.c[field.name] for field in fields(OwnerLimits)]
    return OwnerLimits(*transaction.execute(select(*columns).where(owners.c.id == owner_id)).one())


def limit(transaction: Connection, name: str, limits: OwnerLimits) -> Owner:
    """Set the limits of an owner, from the next claim and submission on."""
    owner = get_or_create(transaction, name)
    transaction.execute(update(owners).where(owners.c.id == owner.id).values(asdict(limits)))
    return owner


def create_key(
    transaction: Connection,
    owner: Owner,
    *,
    note: str = "",
    holder: str = "",
    scopes: Sequence[str] = USUAL_SCOPES,
    expires_at: datetime | None = None,
) -> str:
    """Create a key and return it with its secret, which is never shown again.

    Raises:
        RequestError: There is no such scope.
    """
    for scope in scopes:
        if scope not in set(Scope):
            raise RequestError(
                f"there is no scope {scope!r}; there are {', '.join(Scope)}", field="scopes"
            )
    name, secret = secrets.token_hex(6), secrets.token_hex(20)
    key = f"idq_{name}_{secret}"
    transaction.execute(
        insert(api_keys).values(
            id=name,
            scopes=" ".join(sorted(set(scopes))),
            owner_id=owner.id,
            secret_hash=_digest(key),
            note=note,
            holder=holder,
            created_at=now(),
            expires_at=expires_at,
        )
    )
    return key


def is_key(text: str) -> bool:
    """True if a text has the form of an API key."""
    return bool(_KEY.fullmatch(text))


def key_id(key: str) -> str:
    """The part of a key that is no secret."""
    return key.split("_")[1]


def authenticate(transaction: Connection, key: str) -> Caller:
    """Return the caller of an API key: its owner and scopes.

    Raises:
        Unauthorized: The key is malformed, unknown, revoked or expired; which, is not said.
    """
    matched = _KEY.fullmatch(key)
    row = (
        matched
        and transaction.execute(
            select(
                api_keys.c.secret_hash,
                api_keys.c.scopes,
                api_keys.c.holder,
                owners.c.id,
                owners.c.name,
                (api_keys.c.last_used_at > after(-USE_SECONDS)).label("is_noted"),
            )
            .join(owners, owners.c.id == api_keys.c.owner_id)
            .where(
                api_keys.c.id == matched[1],
                api_keys.c.revoked_at.is_(None),
                or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now()),
            )
        ).first()
    )
    if not row or not hmac.compare_digest(row.secret_hash, _digest(key)):
        raise Unauthorized("the API key is not valid")
    scopes = frozenset(row.scopes.split())
    return Caller(Owner(row.id, row.name), scopes, key_id(key), row.holder, bool(row.is_noted))


def note_use(transaction: Connection, name: str) -> None:
    """Record that a key was used now."""
    transaction.execute(update(api_keys).where(api_keys.c.id == name).values(last_used_at=now()))


def revoke_key(transaction: Connection, key_id: str) -> None:
    """Revoke a key at once.

    Raises:
        NotFound: There is no such key, or it was revoked before.
    """
    revoked = transaction.execute(
        update(api_keys)
        .where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
        .values(revoked_at=now())
    )
    if not revoked.rowcount:
        raise NotFound(f"no such key, or it is revoked already: {key_id!r}")


_KEYS = select(
    api_keys.c.id,
    owners.c.name,
    api_keys.c.note,
    api_keys.c.holder,
    api_keys.c.created_at,
    api_keys.c.expires_at,
    api_keys.c.revoked_at,
    api_keys.c.scopes,
    api_keys.c.last_used_at,
).join(owners, owners.c.id == api_keys.c.owner_id)


def keys(transaction: Connection) -> list[ApiKey]:
    """All keys, oldest first."""
    rows = transaction.execute(_KEYS.order_by(api_keys.c.created_at, api_keys.c.id))
    return [ApiKey(*row) for row in rows]


def key(transaction: Connection, name: str) -> ApiKey:
    """One key, which is there."""
    return ApiKey(*transaction.execute(_KEYS.where(api_keys.c.id == name)).one())


def grant(transaction: Connection, owner: Owner, *, bucket: str, prefix: str) -> bool:
    """Allow an owner's `s3://` references below a prefix of a bucket. Safe to repeat.

    Returns:
        True if it was not allowed before.
    """
    if may_read_exactly(transaction, owner.id, bucket, prefix):
        return False
    transaction.execute(insert(grants).values(owner_id=owner.id, bucket=bucket, prefix=prefix))
    return True


def may_read_exactly(transaction: Connection, owner_id: int, bucket: str, prefix: str) -> bool:
    """True if exactly this grant exists."""
    row = transaction.execute(
        select(grants.c.id).where(
            grants.c.owner_id == owner_id, grants.c.bucket == bucket, grants.c.prefix == prefix
        )
    ).first()
    return row is not None


def may_read(transaction: Connection, owner_id: int, bucket: str, key: str) -> bool:
    """True if a grant of the owner covers an object."""
    prefixes = transaction.execute(
        select(grants.c.prefix).where(grants.c.owner_id == owner_id, grants.c.bucket == bucket)
    ).scalars()
    return any(key.startswith(prefix) for prefix in prefixes)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
