"""Dependencies of endpoints: the parts of the running API, and the caller."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from api.guard import check_local
from api.settings import ApiSettings
from api.watch import Watch
from db import owners
from db.blobs import BlobStore
from db.database import Database
from db.errors import Forbidden, Unauthorized
from db.owners import Caller, Owner, OwnerLimits, Scope
from workers.broker import Wakes
from workers.notices import Notices


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of the running API."""

    settings: ApiSettings
    database: Database
    store: BlobStore
    wakes: Wakes
    notices: Notices
    watch: Watch
    #: What an owner gets for whom nothing else was said.
    limits: OwnerLimits
    #: Whose everything is that comes without a key.
    local_owner: Owner


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Parts = Annotated[Services, Depends(_services)]


def _caller(request: Request, services: Parts) -> Caller:
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


def _with(caller: Caller, scope: Scope) -> Owner:
    if scope not in caller.scopes:
        has = ", ".join(sorted(caller.scopes))
        raise Forbidden(f"requires a key with the scope {scope}; this one has {has}")
    return caller.owner


def _owner(request: Request, caller: Annotated[Caller, Depends(_caller)]) -> Owner:
    reads = request.method in ("GET", "HEAD")
    return _with(caller, Scope.READ if reads else Scope.SUBMIT)


def _reviewer(caller: Annotated[Caller, Depends(_caller)]) -> Caller:
    _with(caller, Scope.REVIEW)
    return caller


def _seer(caller: Annotated[Caller, Depends(_caller)]) -> Owner:
    return caller.owner if Scope.REVIEW in caller.scopes else _with(caller, Scope.READ)


def _admin(caller: Annotated[Caller, Depends(_caller)]) -> Owner:
    return _with(caller, Scope.ADMIN)


#: Whose everything is that a request is about; its key may read, or submit where that is needed.
CurrentOwner = Annotated[Owner, Depends(_owner)]
#: Somebody who judges drafts.
Reviewer = Annotated[Caller, Depends(_reviewer)]
#: Whose drafts and images may be looked at, by a key that may read, or judge them.
Seer = Annotated[Owner, Depends(_seer)]
#: An operator.
Admin = Annotated[Owner, Depends(_admin)]
