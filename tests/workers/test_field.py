"""Images as people have them, whose pixels are fine and whose metadata are not."""

import io
import struct
import zlib

import pytest
from PIL import Image

from db.vocabulary.errors import ImageUnreadable
from workers import images

issue_25 = pytest.mark.xfail(
    raises=(AssertionError, ImageUnreadable),
    reason="issue 25: no file is lost, skipped or mangled in silence",
)


def png(color_type: int, depth: int, transparent: bytes, pixel: bytes, exif: bytes = b"") -> bytes:
    """A PNG of one pixel whose colour is declared transparent."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        whole = kind + body
        return struct.pack(">I", len(body)) + whole + struct.pack(">I", zlib.crc32(whole))

    head = struct.pack(">IIBBBBB", 1, 1, depth, color_type, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"tRNS", transparent)
    body += chunk(b"eXIf", exif) if exif else b""
    body += chunk(b"IDAT", zlib.compress(b"\0" + pixel)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@issue_25
@pytest.mark.parametrize(
    "data",
    [
        png(2, 8, b"\0\x80\0\x20\0\x10", b"\x80\x20\x10"),
        png(0, 16, b"\x12\x34", b"\x12\x34"),
    ],
    ids=["rgb", "16 bits"],
)
def test_a_transparent_colour_is_shown_on_white(data: bytes) -> None:
    assert images.decode(data).getpixel((0, 0)) == (255, 255, 255)


def exif(entry: bytes, orientation: int = 1) -> bytes:
    """A JPEG whose metadata have one entry beside its orientation."""
    turned = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 2) + turned + entry + b"\0" * 4
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "JPEG", exif=b"Exif\0\0" + tiff)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about the metadata
@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(struct.pack("<HHII", 0x011A, 5, 2, 26), id="two resolutions"),
        pytest.param(struct.pack("<HHII", 0x011A, 5, 1, 10_000), id="an entry behind the end"),
        pytest.param(b"\x1a\x01\x05", id="an entry cut short"),
    ],
)
def test_metadata_that_are_broken_fail_no_image(entry: bytes) -> None:
    assert images.decode(exif(entry)).size == (8, 8)


@issue_25
def test_a_text_field_of_metadata_that_holds_a_number_fails_no_image() -> None:
    maker = struct.pack("<HHII", 0x010F, 5, 1, 8)

    assert images.decode(exif(maker, orientation=6)).size == (8, 8)


@issue_25
def test_metadata_without_their_header_fail_no_image() -> None:
    body = b"\0\x08\0\x02\x01\x12\0\x03"

    assert images.decode(png(2, 8, b"\0\0\0\0\0\0", b"\xff\0\0", exif=body)).size == (1, 1)
