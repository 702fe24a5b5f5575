"""Image bytes to pixels: the formats that are accepted, and RGB as every family wants it.

`open_image` only reads the header. Bytes are decoded by `decode` in an engine only after a
disposable child of intake has survived decoding them.
"""

import io
from collections.abc import Callable

import pillow_heif
from PIL import Image, ImageOps, UnidentifiedImageError

from db.vocabulary.errors import ImageUnreadable

pillow_heif.register_heif_opener()
#: Pixels are bounded by intake, before they are decoded, with an error of its own.
Image.MAX_IMAGE_PIXELS = None

#: Nothing else is ever tried: most holes of the past were in formats that nobody captions. SVGs
#: are drawn by intake.
#: Pixels that are laid on white at once.
STRIP_PIXELS = 2**20
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "HEIF")


def open_image(data: bytes) -> Image.Image:
    """Read an image's header; of several frames, the first.

    Raises:
        ImageUnreadable: None of the accepted formats, or a broken header.
    """
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageUnreadable(f"not an image of {', '.join(FORMATS)} or SVG") from error
    except MemoryError:
        raise
    except Exception as error:  # decoders of broken files raise whatever they meet
        raise ImageUnreadable(f"damaged image: {error}") from error


def decode(data: bytes, wanted: Callable[[int, int], tuple[int, int]] | None = None) -> Image.Image:
    """Decode to RGB, upright and without metadata; what is transparent becomes white.

    Args:
        wanted: From width and height to those that are needed: a JPEG is then decoded at a half,
            a quarter or an eighth if that is enough, in less time and with slightly other pixels.

    Raises:
        ImageUnreadable: None of the accepted formats, or broken.
    """
    image = open_image(data)
    try:
        if wanted and image.format == "JPEG":
            image.draft("RGB", wanted(*image.size))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception as error:  # decoders of broken files raise whatever they meet
        raise ImageUnreadable(f"damaged image: {error}") from error
    bare = _rgb(image)
    bare.info = {}
    return bare


def decoded_pixels(data: bytes, wanted: Callable[[int, int], tuple[int, int]] | None = None) -> int:
    """Return the number of pixels that `decode` will make of an image, from its header."""
    image = open_image(data)
    if wanted and image.format == "JPEG":
        image.draft("RGB", wanted(*image.size))
    return image.width * image.height


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image.copy()  # as a plain image, without what the file's own class remembers
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow clips sixteen bits to eight instead of scaling them.
        return image.point(lambda value: value / 257, "F").convert("L").convert("RGB")
    if image.has_transparency_data:
        return _on_white(image)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """Lay a transparent image on white, a strip at a time: whole layers would be four of it."""
    result = Image.new("RGB", image.size)
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        layer = strip.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        result.paste(Image.alpha_composite(white, layer).convert("RGB"), (0, top))
    return result
