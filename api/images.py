"""Images: upload through the API, or straight to the store if it supports that."""

import hashlib
from typing import IO, Annotated

from fastapi import APIRouter, Path, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from api.audit import record_action
from api.header_fields import media_type
from api.image_schemas import Digests, ImageOut, ImagesOut, PresignedOut, PresignIn, PresignOut
from api.services import CurrentOwner, Parts, Seer, Services, Submitter
from api.streams import PIECE_BYTES
from db.audit import AuditAction
from db.blobs.store import image_key
from db.images import collection, known_images
from db.images.image_bytes import read_image, store_images
from db.queue import quotas
from db.vocabulary.errors import (
    ItemError,
    NotFound,
    RequestError,
    TooLarge,
    Unsupported,
    WrongMediaType,
)
from workers.broker import UPKEEP

router = APIRouter(prefix="/v1/images", tags=["images"])

Reference = Annotated[str, Path(pattern="^blob:[0-9a-f]{64}$")]
#: By the formats of verdicts.
MEDIA_TYPES = {
    name: f"image/{name.lower()}" for name in ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "HEIF")
} | {"SVG": "image/svg+xml"}
MAX_FILES = 1_000
PRESIGN_SECONDS = 900
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                        }
                    },
                }
            }
        },
    }
}


@router.post("", status_code=201, openapi_extra=_BODY)
async def upload(request: Request, services: Parts, owner: CurrentOwner) -> ImagesOut:
    """Upload one or more images as multipart parts named `file`.

    The bytes are stored under their SHA-256 and checked by intake when an item uses them.
    """
    if media_type(request.headers.get("content-type")) != "multipart/form-data":
        raise WrongMediaType("send images as multipart/form-data, in parts named `file`")
    async with request.form(max_files=MAX_FILES, max_fields=1) as form:
        files = [part for part in form.getlist("file") if isinstance(part, UploadFile)]
        if not files:
            raise RequestError("no part named `file` with a file in it", field="file")
        return await run_in_threadpool(_store, services, owner.id, files)


def _store(services: Services, owner_id: int, files: list[UploadFile]) -> ImagesOut:
    most = services.settings.max_upload_bytes
    check_room(services, owner_id, sum(part.size or 0 for part in files))
    found = []
    for part in files:
        name = part.filename or ""
        if (part.size or 0) > most:
            raise TooLarge(f"{name!r} has {part.size} bytes; the limit is {most}", field=name)
        digest, size = _digest(part.file)
        if size == 0:
            raise RequestError(f"{name!r} is empty", field=name)
        found.append((part, digest, size))
    for part, _, _ in found:
        part.file.seek(0)
    store_images(
        services.database,
        services.store,
        owner_id,
        {digest: part.file for part, digest, _ in found},
        {digest: size for _, digest, size in found},
    )
    shown = [
        ImageOut(image=f"blob:{digest}", filename=part.filename or "", size_bytes=size)
        for part, digest, size in found
    ]
    return ImagesOut(data=shown)


def check_room(services: Services, owner_id: int, size_bytes: int) -> None:
    """Reject bytes that exceed the owner's quota.

    Raises:
        QuotaExceeded: Not before something is deleted.
    """
    with services.database.snapshot() as transaction:
        quotas.check_upload(transaction, owner_id, services.limits, size_bytes)


def _digest(file: IO[bytes]) -> tuple[str, int]:
    """SHA-256 and size of a file, which is read to its end."""
    digest, size = hashlib.sha256(), 0
    while piece := file.read(PIECE_BYTES):
        digest.update(piece)
        size += len(piece)
    return digest.hexdigest(), size


@router.post("/presign")
def presign(wanted: PresignIn, services: Parts, owner: CurrentOwner) -> PresignOut:
    """Create URLs to which images can be PUT without passing through the API."""
    most, shown = services.settings.max_upload_bytes, []
    check_room(services, owner.id, sum(one.size_bytes for one in wanted))
    for index, one in enumerate(wanted):
        if one.size_bytes > most:
            raise TooLarge(f"larger than the limit of {most} bytes", field=f"{index}.size_bytes")
        url = services.store.presign_put(
            image_key(owner.id, one.sha256), PRESIGN_SECONDS, one.size_bytes
        )
        if url is None:
            raise Unsupported(
                "this service's blob store takes no direct uploads; use POST /v1/images"
            )
        shown.append(
            PresignedOut(image=f"blob:{one.sha256}", url=url, expires_seconds=PRESIGN_SECONDS)
        )
    with services.database.transaction() as transaction:
        known_images.expect_upload(transaction, owner.id, [one.sha256 for one in wanted])
    return PresignOut(data=shown)


@router.get("/{image}", response_class=Response)
def get(image: Reference, services: Parts, owner: Seer) -> Response:
    """Return the bytes of an image that was checked, for a person who judges its text."""
    digest = image.removeprefix("blob:")
    with services.database.snapshot() as transaction:
        check_result = known_images.get(transaction, owner.id, [digest]).get(digest)
    if check_result is None or check_result.code != known_images.OK:
        raise NotFound(f"no such image: {digest}, or it was not found good")
    try:
        data = read_image(services.database, services.store, owner.id, digest)
    except ItemError as error:
        raise NotFound(str(error)) from error
    headers = {"Cache-Control": "private, max-age=3600, immutable"}
    found = MEDIA_TYPES.get(check_result.format or "", "application/octet-stream")
    return Response(data, media_type=found, headers=headers)


@router.delete("/{image}", status_code=204)
def delete(image: Reference, services: Parts, caller: Submitter) -> None:
    """Delete an image within seconds; items that still need it fail with `image_not_found`."""
    digest = image.removeprefix("blob:")
    with services.database.transaction() as transaction:
        collection.delete_image(transaction, caller.owner.id, digest)
        record_action(transaction, caller, AuditAction.DELETE_IMAGE, f"blob:{digest}")
    services.wakes.wake(UPKEEP)


@router.post("/known")
def known(digests: Digests, services: Parts, owner: CurrentOwner) -> list[str]:
    """Return those of some SHA-256 digests that the owner has stored already."""
    with services.database.transaction() as transaction:
        known_images.mark_used(transaction, owner.id, digests)
        stored = known_images.stored(transaction, owner.id, digests)
    return sorted(stored)
