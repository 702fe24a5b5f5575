"""Where the bytes of a page's image come from: a file, the page itself, or the web."""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from idefiq.alt.files import Files, is_picture
from idefiq.errors import IdefiqError

#: As the service takes it.
_MAX_URL_CHARACTERS, _URL = 8_192, re.compile(r"https?://[^\s/]\S*")
_TEMPLATE = re.compile(r"\{\{|\{%|<%|\$\{|\{[A-Za-z_.]+\}")


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Content of an image.

    Attributes:
        identity: The same for the same picture.
        read: Reads its bytes; None if it is somewhere on the web.
        url: Where it is then.
    """

    identity: str
    read: Callable[[], bytes] | None = None
    url: str | None = None


def image_source(files: Files, page: str, source: str) -> ImageSource:
    """Find the image that a page names.

    Raises:
        IdefiqError: There is none, or it is no image.
    """
    if not source:
        raise IdefiqError("it names no image")
    if _TEMPLATE.search(source) and not source.startswith("data:"):
        raise IdefiqError(f"{source} is made by a template: write its text there")

    def read() -> bytes | str:
        return _inline(source) if source.startswith("data:") else files.picture(page, source)

    found = read()
    if isinstance(found, str):
        url = re.sub(r"\s+", "%20", found.strip())
        if len(url) > _MAX_URL_CHARACTERS or not _URL.fullmatch(url):
            raise IdefiqError(f"{source[:80]} is no address that can be fetched")
        return ImageSource(identity=url, url=url)
    if not is_picture(found):
        raise IdefiqError(f"{source[:80]} is not an image")
    return ImageSource(hashlib.sha256(found).hexdigest(), read=lambda: bytes(read()))  # type: ignore[arg-type]


def _inline(source: str) -> bytes:
    """Decode a data: URL."""
    head, _, body = source.partition(",")
    if not head.startswith("data:image/"):
        raise IdefiqError("the image in the page is not readable")
    data = unquote_to_bytes(body)
    try:
        is_base64 = head.endswith(";base64")
        return base64.b64decode(b"".join(data.split()), validate=True) if is_base64 else data
    except binascii.Error as error:
        raise IdefiqError("the image in the page is damaged") from error
