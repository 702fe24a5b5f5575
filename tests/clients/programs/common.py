"""What the programs share: where the service is, a picture, and what they want to know of it."""

import base64
import struct
import sys
import zlib
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

MODEL = "demo"
BASE, KEY = sys.argv[1:3] if len(sys.argv) > 2 else ("", "")
SIZE = 64


class Color(StrEnum):
    """One of a few."""

    RED = "red"
    BLUE = "blue"


class Circle(BaseModel):
    """A branch of a union."""

    kind: Literal["circle"]
    radius: Annotated[int, Field(ge=0, le=99)]


class Square(BaseModel):
    """The other branch."""

    kind: Literal["square"]
    side: Annotated[int, Field(ge=0, le=99)]


class Part(BaseModel):
    """An object in a list."""

    name: Annotated[str, Field(max_length=8)]
    is_small: bool


class Scene(BaseModel):
    """A scene, with all that schemas usually have."""

    color: Color
    count: Annotated[int, Field(ge=0, le=20)]
    note: Annotated[str, Field(max_length=10)] | None
    parts: Annotated[list[Part], Field(max_length=2)]
    shape: Annotated[Circle | Square, Field(discriminator="kind")]


class Answer(BaseModel):
    """A small one, for unions of two."""

    yes: bool


def picture() -> str:
    """A red PNG as a `data:` URL."""
    row = b"\0" + b"\xff\0\0" * SIZE

    def chunk(name: bytes, data: bytes) -> bytes:
        checked = name + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", SIZE, SIZE, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * SIZE)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


def messages() -> list[dict[str, Any]]:
    """A question about the picture, as OpenAI's API takes it."""
    parts = [
        {"type": "text", "text": "Describe the image."},
        {"type": "image_url", "image_url": {"url": picture()}},
    ]
    return [{"role": "user", "content": parts}]


def expect(found: object, kind: type = Scene) -> None:
    """Fail unless something is of a type."""
    if not isinstance(found, kind):
        raise AssertionError(f"expected {kind.__name__}, not {found!r}")
