"""Files that are small, and much work: what is counted before anything is decoded."""

import io
import struct
import zlib

import pytest
from PIL import Image

from db.images.known_images import OK
from db.vocabulary.errors import ImageTooLarge
from tests import pictures
from tests.api.test_field import bomb
from workers.intake.check import ImageLimits, check
from workers.intake.structure import MAX_JPEG_SCANS, MAX_PARTS, check_structure

LIMITS = ImageLimits(image_bytes=20 * 2**20, pixels=50_000_000, aspect=50)


def jpeg(**options: object) -> bytes:
    out = io.BytesIO()
    noise = Image.effect_noise((200, 150), 80).convert("RGB")
    noise.save(out, "JPEG", **options)
    return out.getvalue()


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True, "quality": 95},
        {"restart_marker_blocks": 1, "progressive": True},
        {"comment": b"\xff\xda" * 200, "exif": Image.Exif()},
    ],
)
def test_what_cameras_and_encoders_write_is_accepted(options: dict[str, object]) -> None:
    assert check(jpeg(**options), LIMITS).code == OK


def test_a_jpeg_of_more_scans_than_any_encoder_writes_is_too_large() -> None:
    check_structure(bomb(MAX_JPEG_SCANS))

    with pytest.raises(ImageTooLarge, match="more than 64 scans"):
        check_structure(bomb(MAX_JPEG_SCANS + 1))


def test_a_jpeg_of_very_many_comments_is_too_large() -> None:
    comments = b"\xff\xfe\x00\x02" * (MAX_PARTS + 1)

    with pytest.raises(ImageTooLarge, match="segments"):
        check_structure(b"\xff\xd8" + comments + jpeg()[2:])


def test_fill_bytes_between_segments_are_passed_over_at_once() -> None:
    check_structure(b"\xff\xd8" + b"\xff" * (15 * 2**20) + jpeg()[2:])


def test_a_png_of_very_many_texts_is_too_large() -> None:
    whole = pictures.plain()
    head, rest = whole[:33], whole[33:]
    texts = chunk(b"tEXt", b"a\0b")

    check_structure(head + texts * 1_000 + rest)
    with pytest.raises(ImageTooLarge, match="chunks"):
        check_structure(head + texts * MAX_PARTS + rest)


@pytest.mark.parametrize("cut", [2, 3, 5, 8, 12, 40])
@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_a_file_that_ends_early_is_left_to_its_decoder(kind: str, cut: int) -> None:
    check_structure((jpeg() if kind == "jpeg" else pictures.plain())[:cut])
