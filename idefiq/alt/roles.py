"""Roles of images by the markup around them: the W3C's decision tree.

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
from functools import lru_cache
from itertools import islice
from urllib.parse import unquote, urlsplit

from idefiq.alt.tree import Element

_FORMATS = r"\.(?:avif|gif|jpe?g|png|svg|webp)$"
_ORNAMENT = re.compile(
    r"(?:spacer|blank|clear|transparent|pixel|1x1|dot|bullet|divider|separator|hr|rule|ornament"
    r"|shadow|corner|gradient|background|bg|texture|pattern)[-_.\d]*",
    re.IGNORECASE,
)
#: Most pixels a side of a spacer or tracking pixel.
_SPECK = 3


class ImageRole(StrEnum):
    """What an image is for."""

    INFORMATIVE = "informative"
    FUNCTIONAL = "functional"
    DECORATIVE = "decorative"


@dataclass(frozen=True, slots=True)
class RoleDecision:
    """A role, its reason, and the link or button of a functional image."""

    role: ImageRole
    reason: str
    control: Element | None = None


def sort(image: Element, source: str) -> RoleDecision:
    """Find the role of an image.

    Args:
        image: An img, or an input of type image.
        source: Where its picture is.
    """
    if image.name == "input":
        return RoleDecision(ImageRole.FUNCTIONAL, "it is a button", image)
    if reason := _hidden(image):
        return RoleDecision(ImageRole.DECORATIVE, reason)
    if control := _control(image):
        return _in_control(image, control)
    if _is_speck(image):
        return RoleDecision(ImageRole.DECORATIVE, "it is a spacer or counts visits")
    if _ORNAMENT.fullmatch(_stem(source)):
        return RoleDecision(ImageRole.DECORATIVE, "by its name it is an ornament")
    return RoleDecision(ImageRole.INFORMATIVE, "it is part of the content")


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


def _in_control(image: Element, control: Element) -> RoleDecision:
    what = "button" if control.name == "button" or control.get("role") == "button" else "link"
    if control.get("aria-label") or control.get("aria-labelledby"):
        return RoleDecision(ImageRole.DECORATIVE, f"its {what} has a label", control)
    if _says_words(control) or any(one is not image for one in _named_within(control)):
        return RoleDecision(ImageRole.DECORATIVE, f"its {what} says it in words", control)
    if re.search(_FORMATS, path_of(control.get("href")), re.IGNORECASE):
        return RoleDecision(ImageRole.INFORMATIVE, "its link shows it in full")
    return RoleDecision(ImageRole.FUNCTIONAL, f"it is all that a {what} shows", control)


@lru_cache(256)
def _says_words(control: Element) -> bool:
    return any(map(str.isalnum, control.text(most=1_000)))


@lru_cache(256)
def _named_within(control: Element) -> tuple[Element, ...]:
    """The first two in a control that name it: pictures with a text, and what has a label."""
    named = (one for one in control.walk() if one.get("alt") or one.get("aria-label"))
    return tuple(islice((one for one in named if one is not control), 2))


def _is_speck(image: Element) -> bool:
    if image.get("layout"):  # of AMP, where width and height are a shape
        return False
    style = dict(re.findall(r"(?<![\w-])(width|height)\s*:\s*(\d{1,6})px", image.get("style")))
    sizes = [image.get(side).removesuffix("px") or style.get(side, "") for side in _SIDES]
    sides = [int(side) for side in sizes if re.fullmatch(r"[0-9]{1,6}", side)]
    return bool(sides) and (min(sides) <= 1 or (len(sides) == 2 and max(sides) <= _SPECK))


_SIDES = ("width", "height")


def path_of(url: str) -> str:
    """Path of a URL without query and fragment; empty if it is none."""
    try:
        return unquote(urlsplit(url).path)
    except ValueError:
        return ""


def _stem(source: str) -> str:
    name = path_of(source).rpartition("/")[2]
    return name.rpartition(".")[0] or name
