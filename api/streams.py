"""Streaming of blobs to clients, piece by piece."""

import re
from collections.abc import Iterator
from typing import IO

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from db.blobs.store import BlobStore

PIECE_BYTES = 256 * 1024


def pieces(stream: IO[bytes], most: int | None = None) -> Iterator[bytes]:
    """Yield a blob's bytes, or at most so many of them, and close it at the end."""
    with stream:
        while piece := stream.read(PIECE_BYTES if most is None else min(most, PIECE_BYTES)):
            yield piece
            most = None if most is None else most - len(piece)


def stored_blob(
    request: Request, store: BlobStore, key: str, *, size: int, media_type: str
) -> Response:
    """Answer with a blob that never changes: whole, a range of it, or that it is as it was.

    Args:
        size: Its bytes.
    """
    headers = {"ETag": f'"{key.rpartition("/")[2]}"', "Accept-Ranges": "bytes"}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    whole = request.headers.get("if-range", headers["ETag"]) != headers["ETag"]
    asked = None if whole else _range(request.headers.get("range", ""), size)
    if asked is not None and asked.start >= size:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{size}"})
    shown = range(size) if asked is None else asked
    if asked is not None:
        headers["Content-Range"] = f"bytes {shown.start}-{shown.stop - 1}/{size}"
    headers["Content-Length"] = str(len(shown))
    return StreamingResponse(
        pieces(store.open(key, shown.start), len(shown)),
        status_code=200 if asked is None else 206,
        headers=headers,
        media_type=media_type,
    )


def _range(field: str, size: int) -> range | None:
    """Return the bytes that a Range field asks for; None for all, and for several ranges."""
    found = re.fullmatch(r"bytes=\s*([0-9]{0,18})-([0-9]{0,18})\s*", field)
    if not found or not (found[1] or found[2]) or (found[1] and found[2] and not _in_order(found)):
        return None
    if not found[1]:
        return range(max(0, size - int(found[2])), size) if int(found[2]) else range(size, size)
    stop = min(size, int(found[2]) + 1) if found[2] else size
    return range(int(found[1]), max(stop, int(found[1])))


def _in_order(found: "re.Match[str]") -> bool:
    return int(found[1]) <= int(found[2])
