"""Bytes to pixels."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from db.vocabulary.errors import ImageUnreadable
from tests import pictures
from workers import images
from workers.images import decode


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "AVIF", "HEIF"])
def test_every_accepted_format_becomes_rgb(form: str) -> None:
    data = pictures.encode(Image.new("RGB", (64, 48), (200, 30, 40)), form)

    image = decode(data)

    assert (image.mode, image.size) == ("RGB", (64, 48))
    assert np.abs(np.asarray(image).astype(int) - (200, 30, 40)).max() < 12


@pytest.mark.parametrize("form", ["BMP", "TIFF", "ICO", "PPM"])
def test_unsupported_formats_are_rejected(form: str) -> None:
    data = pictures.encode(Image.new("RGB", (16, 16)), form)

    with pytest.raises(ImageUnreadable, match="not an image of JPEG"):
        decode(data)


def test_a_rotated_photograph_is_turned_upright() -> None:
    image = Image.new("RGB", (40, 20), "white")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter

    assert decode(pictures.encode(image, "JPEG", exif=exif)).size == (20, 40)


def test_no_metadata_comes_along() -> None:
    exif = Image.Exif()
    exif[0x010E] = "a secret place"
    data = pictures.encode(Image.new("RGB", (8, 8)), "JPEG", exif=exif)

    image = decode(data)

    assert b"secret" in data
    assert "secret" not in repr(image.info) + repr(dict(image.getexif()))


def test_what_is_transparent_becomes_white() -> None:
    data = pictures.encode(Image.new("RGBA", (4, 4), (255, 0, 0, 0)))

    assert decode(data).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_laid_on_white_in_strips_as_it_would_be_whole(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = Image.frombytes("RGBA", (7, 11), random.Random(1).randbytes(7 * 11 * 4))
    image = noise.convert("RGB").quantize(16) if mode == "P" else noise.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **({"transparency": 3} if mode == "P" else {}))
    layer = Image.open(buffer).convert("RGBA")
    whole = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")

    for pixels in (1, 20, 10_000):
        monkeypatch.setattr(images, "STRIP_PIXELS", pixels)
        assert decode(buffer.getvalue()).tobytes() == whole.tobytes()


def test_of_an_animation_the_first_frame_is_shown() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    data = pictures.encode(frames[0], "GIF", save_all=True, append_images=frames[1:])

    assert decode(data).getpixel((0, 0)) == (255, 0, 0)


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    gray = Image.fromarray(np.full((4, 4), 32768, np.uint16))

    assert decode(pictures.encode(gray)).getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "CMYK", "RGBA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    form = "JPEG" if mode == "CMYK" else "PNG"

    assert decode(pictures.encode(Image.new(mode, (4, 4)), form)).mode == "RGB"


@pytest.mark.parametrize(
    "data",
    [b"", b"junk", b"<html></html>", pictures.plain()[:40], pictures.claims(8, 8)],
    ids=["empty", "junk", "html", "cut off", "without data"],
)
def test_broken_bytes_are_an_error_of_the_image(data: bytes) -> None:
    with pytest.raises(ImageUnreadable):
        decode(data)


@pytest.mark.parametrize(
    ("wanted", "size"),
    [((100, 75), (100, 75)), ((101, 75), (200, 150)), ((300, 225), (400, 300)), ((900, 9), None)],
)
def test_a_large_jpeg_is_decoded_at_a_fraction_if_a_small_size_is_needed(
    wanted: tuple[int, int], size: tuple[int, int] | None
) -> None:
    data = pictures.encode(Image.new("RGB", (800, 600), "teal"), "JPEG")

    assert decode(data, lambda width, height: wanted).size == (size or (800, 600))


def test_other_formats_are_always_decoded_whole() -> None:
    data = pictures.encode(Image.new("RGB", (800, 600), "teal"), "PNG")

    assert decode(data, lambda width, height: (100, 75)).size == (800, 600)
