"""What endpoints work with, and who is asking."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from api.guard import check_local
from api.settings import ApiSettings
from api.watch import Watch
from db import owners
from db.blobs import BlobStore
from db.database import Database
from db.errors import Unauthorized
from db.owners import Owner
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
    #: Whose everything is that comes without a key.
    local_owner: Owner


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Parts = Annotated[Services, Depends(_services)]


def _owner(request: Request, services: Parts) -> Owner:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    # A key that is none of ours is what OpenAI's clients make up when they need none.
    if key and (services.settings.keys_required or owners.is_key(key.strip())):
        if scheme.lower() != "bearer":
            raise Unauthorized("send the API key as `Authorization: Bearer KEY`")
        with services.database.snapshot() as transaction:
            return owners.authenticate(transaction, key.strip())
    if services.settings.keys_required:
        raise Unauthorized("an API key is required: send it as `Authorization: Bearer KEY`")
    check_local(request.headers)
    return services.local_owner


CurrentOwner = Annotated[Owner, Depends(_owner)]
