"""SVG to PNG with resvg, in intake's children, for SVGs without external references.

An SVG can name files and addresses, which resvg would look for on this machine. What names
anything but a part of itself or a raster image within it is refused, before it is drawn.
"""

import re
from collections.abc import Mapping
from xml.parsers import expat

import resvg_py

from db.vocabulary.errors import ImageTooLarge, ImageUnreadable
from workers.svg_cost import DrawingCost

#: The longer side of what is drawn, in pixels; how large an SVG says it is says little.
LONG_SIDE = 1_024
#: Long by short side; narrower ones are lines and no pictures.
MAX_ASPECT = 100.0
#: Drawing time grows with it.
MAX_BYTES = 4 * 2**20
_RASTER = re.compile(r"data:image/(?:png|jpe?g|gif|webp);", re.IGNORECASE)
_NUMBER = r"[+-]?(?:[0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})(?:[eE][+-]?[0-9]{1,2})?"
#: Pixels of a unit.
_UNITS = {"": 1.0, "px": 1.0, "pt": 4 / 3, "pc": 16.0, "mm": 3.78, "cm": 37.8, "in": 96.0}
_URL = re.compile(r"""url\(\s*["']?\s*(?!#|["'])([^)"']*)""", re.IGNORECASE)
_ELEMENT = re.compile(rb"<!DOCTYPE\s+svg\b|<(?:\w{1,20}:)?svg[\s>/]", re.IGNORECASE)
_SPACE = re.compile(rb"\s*")
#: What may stand before its element, and how that ends.
_BEFORE = ((b"<?xml", b"?>"), (b"<!--", b"-->"))
#: An SVG says so within this many bytes.
_BEGIN_BYTES = 16_384


def is_svg(data: bytes) -> bool:
    """True if bytes begin as an SVG does."""
    begin = data[:_BEGIN_BYTES].removeprefix(b"\xef\xbb\xbf")
    at = _after_space(begin, 0)
    while end := next((end for start, end in _BEFORE if begin.startswith(start, at)), b""):
        closed = begin.find(end, at)
        if closed < 0:
            return False
        at = _after_space(begin, closed + len(end))
    return bool(_ELEMENT.match(begin, at))


def _after_space(data: bytes, at: int) -> int:
    found = _SPACE.match(data, at)
    return found.end() if found else at


def rasterise(data: bytes) -> bytes:
    """Draw an SVG on white. Returns a PNG whose longer side is LONG_SIDE pixels.

    Raises:
        ImageTooLarge: It has too many bytes, or there is too much to draw.
        ImageUnreadable: It is broken, or refers to something outside itself.
    """
    if len(data) > MAX_BYTES:
        raise ImageTooLarge(f"an SVG of {len(data)} bytes; the limit is {MAX_BYTES}")
    width, height = _size(_checked(data))
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageTooLarge(f"{width:g}x{height:g} is narrower than 1:{MAX_ASPECT:g}")
    is_wide = width >= height
    try:
        text = data.decode("utf-8-sig")
        drawn = resvg_py.svg_to_bytes(
            svg_string=text,
            background="#ffffff",
            dpi=96,  # without it a millimetre is nothing
            width=LONG_SIDE if is_wide else None,
            height=None if is_wide else LONG_SIDE,
        )
        return bytes(drawn)
    except ValueError as error:
        raise ImageUnreadable(f"damaged SVG: {error}") from error


def _size(root: Mapping[str, str]) -> tuple[float, float]:
    """Width and height of the root element, or of its view box."""
    box = re.findall(_NUMBER, root.get("viewBox", "")[:200])
    sides = []
    for name, index in (("width", 2), ("height", 3)):
        length = re.fullmatch(rf"\s*({_NUMBER})\s*([a-z]{{0,2}})\s*", root.get(name, "")[:50])
        if length and length[2] in _UNITS:
            sides.append(float(length[1]) * _UNITS[length[2]])
        else:
            sides.append(float(box[index]) if len(box) == 4 else 100.0)
    if min(sides) <= 0:
        raise ImageUnreadable(f"an SVG of {sides[0]:g}x{sides[1]:g} is not an image")
    return sides[0], sides[1]


def _checked(data: bytes) -> dict[str, str]:
    """Return the root's attributes if the SVG is well-formed and self-contained."""
    parser = expat.ParserCreate()
    root: dict[str, str] = {}
    cost = DrawingCost()

    def element(name: str, attributes: dict[str, str]) -> None:
        root.update({} if root else {"": name, **attributes})
        cost.begin(name, attributes)
        for attribute, value in attributes.items():
            if attribute.rpartition(":")[2] in ("href", "src"):
                _check_reference(value)
            _check_style(value)

    def entity(*_: object) -> None:
        raise ImageUnreadable("an SVG with its own entities is not supported")

    parser.StartElementHandler = element
    parser.EntityDeclHandler = entity

    def text(data: str) -> None:
        _check_style(data)
        cost.style(data)

    parser.EndElementHandler = lambda _: cost.end()
    parser.CharacterDataHandler = text
    parser.buffer_text = True
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ImageUnreadable(f"damaged SVG: {error}") from error
    cost.check()
    return root


def _check_reference(value: str) -> None:
    target = value.strip()
    if target and not target.startswith("#") and not _RASTER.match(target):
        raise ImageUnreadable("the SVG refers to something outside itself")


def _check_style(text: str) -> None:
    for found in _URL.finditer(text):
        _check_reference(found[1])
    if "@import" in text.casefold():
        raise ImageUnreadable("the SVG refers to something outside itself")
