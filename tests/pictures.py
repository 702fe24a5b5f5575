"""Pictures for tests, drawn here."""

import io
import struct
import zlib
from typing import Any

from PIL import Image


def encode(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def plain(color: str = "red", size: tuple[int, int] = (8, 6)) -> bytes:
    return encode(Image.new("RGB", size, color))


def claims(width: int, height: int) -> bytes:
    """A PNG whose header claims a size and whose data is not there."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
