"""What an image is for, by the markup around it: the W3C's decision tree.

    hidden, or marked as presentation ───────────────▶ decorative
    all that a link or a button shows ───────────────▶ functional: say where it leads, what it does
    beside words in the same link or button ─────────▶ decorative: the words say it
    a spacer, a tracking pixel, an ornament by name ─▶ decorative
    everything else ─────────────────────────────────▶ informative: say what matters here

Whether text or meaning is in the picture itself cannot be seen in markup; the model is told to
look for it, and a person decides. https://www.w3.org/WAI/tutorials/images/decision-tree/
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote, urlsplit

from idefiq.alt.tree import Element

_FORMATS = r"\.(?:avif|gif|jpe?g|png|svg|webp)$"
_ORNAMENT = re.compile(
    r"(?:spacer|blank|clear|transparent|pixel|1x1|dot|bullet|divider|separator|hr|rule|ornament"
    r"|shadow|corner|gradient|background|bg|texture|pattern)[-_.\d]*",
    re.IGNORECASE,
)
#: Pixels a side at most that nobody looks at.
_SPECK = 3


class Role(StrEnum):
    """What an image is for."""

    INFORMATIVE = "informative"
    FUNCTIONAL = "functional"
    DECORATIVE = "decorative"


@dataclass(frozen=True, slots=True)
class Sorted:
    """A role, why, and for functional images the link or button."""

    role: Role
    reason: str
    control: Element | None = None


def sort(image: Element, source: str) -> Sorted:
    """Find the role of an image.

    Args:
        image: An img, or an input of type image.
        source: Where its picture is.
    """
    if image.name == "input":
        return Sorted(Role.FUNCTIONAL, "it is a button", image)
    if reason := _hidden(image):
        return Sorted(Role.DECORATIVE, reason)
    if control := _control(image):
        return _in_control(image, control)
    if _is_speck(image):
        return Sorted(Role.DECORATIVE, "it is a spacer or counts visits")
    if _ORNAMENT.fullmatch(_stem(source)):
        return Sorted(Role.DECORATIVE, "by its name it is an ornament")
    return Sorted(Role.INFORMATIVE, "it is part of the content")


def _hidden(image: Element) -> str:
    if image.get("role") in ("presentation", "none"):
        return f"it has role={image.get('role')}"
    for element in (image, *image.ancestors()):
        if element.get("aria-hidden") == "true":
            return "it is hidden from screen readers"
    return ""


def _control(image: Element) -> Element | None:
    for above in image.ancestors():
        if above.name == "button" or above.get("role") in ("button", "link", "menuitem", "tab"):
            return above
        if above.name == "a" and "href" in above.attributes:
            return above
    return None


def _in_control(image: Element, control: Element) -> Sorted:
    what = "button" if control.name == "button" or control.get("role") == "button" else "link"
    if control.get("aria-label") or control.get("aria-labelledby"):
        return Sorted(Role.DECORATIVE, f"its {what} has a label", control)
    if control.text() or _other_texts(image, control):
        return Sorted(Role.DECORATIVE, f"its {what} says it in words", control)
    if re.search(_FORMATS, urlsplit(control.get("href")).path, re.IGNORECASE):
        return Sorted(Role.INFORMATIVE, "its link shows it in full")
    return Sorted(Role.FUNCTIONAL, f"it is all that a {what} shows", control)


def _other_texts(image: Element, control: Element) -> bool:
    """Whether another picture in the control names it already."""
    others = (one for one in control.walk() if one is not image and one is not control)
    return any(one.get("alt") or one.get("aria-label") for one in others)


def _is_speck(image: Element) -> bool:
    style = dict(re.findall(r"(width|height)\s*:\s*(\d+)px", image.get("style")))
    sides = [image.get(side).removesuffix("px") or style.get(side, "") for side in _SIDES]
    return any(side.isdecimal() and int(side) <= _SPECK for side in sides)


_SIDES = ("width", "height")


def _stem(source: str) -> str:
    name = unquote(urlsplit(source).path).rpartition("/")[2]
    return name.rpartition(".")[0] or name
