"""Dependencies of endpoints: the parts of the running API, and the caller."""

import hashlib
import time
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from api.guard import check_local
from api.readiness import ReadinessCheck
from api.settings import ApiSettings
from api.watch import Watch
from db import owners
from db.blobs.store import BlobStore
from db.owners import Caller, Owner, Scope
from db.sql.database import Database
from db.vocabulary.errors import Forbidden, StorageError, Unauthorized
from db.vocabulary.limits import OwnerLimits
from workers.broker import Wakes
from workers.notices import Notices

#: A key that could read metrics is looked up again after this, or later if the database is away.
METRICS_KEY_SECONDS, METRICS_KEY_OUTAGE_SECONDS = 60.0, 3_600.0
MAX_METRICS_KEYS = 100


class MetricsKeys:
    """Keys that could read metrics lately, as digests: Prometheus asks every few seconds."""

    def __init__(self) -> None:
        self._at: dict[bytes, float] = {}

    def remember(self, key: str) -> None:
        """Note that a key, or none, could read metrics now."""
        if len(self._at) >= MAX_METRICS_KEYS:
            self._at.clear()
        self._at[_digest(key)] = time.monotonic()

    def is_known(self, key: str) -> bool:
        """True if it could a minute ago."""
        return self._could_within(key, METRICS_KEY_SECONDS)

    def was_known(self, key: str) -> bool:
        """True if it could in the last hour."""
        return self._could_within(key, METRICS_KEY_OUTAGE_SECONDS)

    def _could_within(self, key: str, seconds: float) -> bool:
        at = self._at.get(_digest(key))
        return at is not None and time.monotonic() - at < seconds


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of the running API."""

    settings: ApiSettings
    database: Database
    store: BlobStore
    wakes: Wakes
    notices: Notices
    watch: Watch
    readiness: ReadinessCheck
    #: What an owner gets for whom nothing else was said.
    limits: OwnerLimits
    #: Whose everything is that comes without a key.
    local_owner: Owner
    metrics_keys: MetricsKeys = field(default_factory=MetricsKeys)


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Parts = Annotated[Services, Depends(_services)]


def authenticate(request: Request, services: Services) -> Caller:
    """Return who sends a request, by its headers alone.

    Raises:
        Unauthorized: There is no key, or none that is valid now.
        Forbidden: Without keys, the request comes from elsewhere than this machine.
    """
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    # A key that is none of ours is what OpenAI's clients make up when they need none.
    if key and (services.settings.keys_required or owners.is_key(key.strip())):
        if scheme.lower() != "bearer":
            raise Unauthorized("send the API key as `Authorization: Bearer KEY`")
        with services.database.snapshot() as transaction:
            caller = owners.authenticate(transaction, key.strip())
        if not caller.is_noted:
            with services.database.transaction() as transaction:
                owners.note_use(transaction, caller.key_id)
        return caller
    if services.settings.keys_required:
        raise Unauthorized("an API key is required: send it as `Authorization: Bearer KEY`")
    check_local(request.headers)
    # Whoever is on this machine is not its operator: keys are made with a key.
    return Caller(services.local_owner, frozenset(owners.USUAL_SCOPES))


def _caller(request: Request, services: Parts) -> Caller:
    known: Caller | None = getattr(request.state, "caller", None)
    return known or authenticate(request, services)


def _with(caller: Caller, scope: Scope) -> Owner:
    if scope not in caller.scopes:
        has = ", ".join(sorted(caller.scopes))
        raise Forbidden(f"requires a key with the scope {scope}; this one has {has}")
    return caller.owner


def _owner(request: Request, caller: Annotated[Caller, Depends(_caller)]) -> Owner:
    reads = request.method in ("GET", "HEAD")
    return _with(caller, Scope.READ if reads else Scope.SUBMIT)


def _submitter(caller: Annotated[Caller, Depends(_caller)]) -> Caller:
    _with(caller, Scope.SUBMIT)
    return caller


def _reviewer(caller: Annotated[Caller, Depends(_caller)]) -> Caller:
    _with(caller, Scope.REVIEW)
    return caller


def _seer(caller: Annotated[Caller, Depends(_caller)]) -> Owner:
    return caller.owner if Scope.REVIEW in caller.scopes else _with(caller, Scope.READ)


def _metrics_reader(request: Request, services: Parts) -> None:
    key = request.headers.get("authorization", "")
    if key and services.metrics_keys.is_known(key):
        return
    try:
        caller = authenticate(request, services)
    except StorageError:
        # Without the database its absence must be seen all the more.
        if key and services.metrics_keys.was_known(key):
            return
        raise
    # A caller without a key is on this machine, and finds the workers' metrics there as well.
    if caller.key_id and Scope.ADMIN not in caller.scopes:
        _with(caller, Scope.METRICS)
    services.metrics_keys.remember(key)


def _admin(caller: Annotated[Caller, Depends(_caller)]) -> Caller:
    _with(caller, Scope.ADMIN)
    return caller


#: Whose everything is that a request is about; its key may read, or submit where that is needed.
CurrentOwner = Annotated[Owner, Depends(_owner)]
#: Somebody who judges drafts.
Reviewer = Annotated[Caller, Depends(_reviewer)]
#: Whose drafts and images may be looked at, by a key that may read, or judge them.
Seer = Annotated[Owner, Depends(_seer)]
#: Whoever may read metrics, such as Prometheus.
MetricsReader = Annotated[None, Depends(_metrics_reader)]
#: Somebody who deletes what is the owner's, with a key that may submit.
Submitter = Annotated[Caller, Depends(_submitter)]
#: An operator.
Admin = Annotated[Caller, Depends(_admin)]
