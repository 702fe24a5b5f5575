"""Places of images in pages, and how an alternative text is written there.

    page's text ─▶ a reader by its suffix ─▶ Document: title, language, places, remarks
                               place: element, source, alt, and the edits for another

A draft is marked where it is written, so that nobody takes it for a person's text:
<img alt="…" data-alt-draft=""> in HTML, ![…](…)<!--alt-draft--> in Markdown.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from idefiq.alt.code import makes
from idefiq.alt.context import DRAFT_ATTRIBUTE, DRAFT_WITH_LANGUAGE, PageContext
from idefiq.alt.tags import Edit, set_attributes
from idefiq.alt.tree import Element

#: Where scripts that load images late keep the real source.
_LAZY = ("data-src", "data-lazy-src", "data-original", "data-lazy", "data-original-src")
_LAZY_SETS = ("data-srcset", "data-lazy-srcset")
_STAND_IN = re.compile(r"blank|placeholder|spacer|loading|lazy|1x1", re.IGNORECASE)
#: Of several widths, the largest up to this, in pixels.
_WIDE_ENOUGH = 1_600
_BACKGROUND = re.compile(
    r"background(?:-image)?\s*:[^;}]{0,500}?url\(\s*[\"']?([^)\"']{1,2000})", re.IGNORECASE
)


class Spot(Protocol):
    """How an alternative text is written at one place."""

    def edits(self, text: str, alt: str, *, is_draft: bool, language: str) -> list[Edit]:
        """Return the edits that make the alternative text `alt`.

        Args:
            text: The page, as it was read.
            is_draft: Mark it as a draft that no person has accepted.
            language: Language of the text; empty if it is the page's.
        """


@dataclass(frozen=True, slots=True)
class Place:
    """An image of a page.

    Attributes:
        source: Source of the image in the page; empty without one.
        alt: Its alternative text; None without one.
        is_draft: True if the text is a marked draft that no person has accepted.
        spot: None if a program cannot write here.
        obstacle: Why the page does not allow writing, or empty.
        is_made: True if template code makes the text, which is unknown here.
    """

    element: Element
    offset: int
    source: str
    alt: str | None
    is_draft: bool
    spot: Spot | None
    obstacle: str = ""
    is_made: bool = False


@dataclass(frozen=True, slots=True)
class Remark:
    """Something that shows an image, and is reported but not written."""

    offset: int
    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed page."""

    page: PageContext
    places: Sequence[Place]
    remarks: Sequence[Remark]


def apart(text: str) -> str:
    """Put a space between double braces: Angular evaluates them even as character references."""
    return re.sub(r"\{(?=\{)|\}(?=\})", r"\g<0> ", text)


@dataclass(frozen=True, slots=True)
class TagSpot:
    """The alt attribute, existing or not, of the start tag at an offset."""

    offset: int
    is_draft: bool
    #: True if the author wrote a `lang` attribute.
    has_language: bool = False
    #: Characters with a meaning around the tag, such as in Markdown; written as references.
    escaped: str = ""

    def edits(self, text: str, alt: str, *, is_draft: bool, language: str) -> list[Edit]:
        """See Spot."""
        values: dict[str, str | None] = {"alt": apart(alt)}
        says = language if not self.has_language else ""
        if is_draft or self.is_draft:
            values[DRAFT_ATTRIBUTE] = (DRAFT_WITH_LANGUAGE if says else "") if is_draft else None
        if says or (self.is_draft and not self.has_language):
            values["lang"] = says or None  # None removes the `lang` of an earlier draft
        # A text that looks like code would be taken for it when the page is read again.
        escaped = self.escaped + ("[]$@#" if makes(alt) else "")
        return [set_attributes(text, self.offset, values, escaped=escaped)]


def in_tags(root: Element, *, escaped: str = "") -> tuple[list[Place], list[Remark]]:
    """Find images and remarks in a tree of HTML or XHTML.

    Args:
        root: The tree.
        escaped: Characters with a meaning around the tags, such as in Markdown.
    """
    places: list[Place] = []
    remarks: list[Remark] = []
    for element in root.walk():
        if element.offset is None:
            continue
        if _is_image(element):
            places.append(_place(element, element.offset, escaped))
        elif remark := _remark(element):
            remarks.append(Remark(element.offset, *remark))
        remarks += [
            Remark(element.offset, f"CSS background {found}", "text cannot be put beside it")
            for found in _backgrounds(element)
        ]
    return places, remarks


def _is_image(element: Element) -> bool:
    if element.name == "input":
        return element.get("type").lower() == "image"
    return element.name in ("img", "amp-img") or (
        element.name == "area" and element.get("href") != ""
    )


def _place(element: Element, offset: int, escaped: str) -> Place:
    is_draft = DRAFT_ATTRIBUTE in element.attributes
    is_ours = element.get(DRAFT_ATTRIBUTE) == DRAFT_WITH_LANGUAGE
    spot = TagSpot(offset, is_draft, "lang" in element.attributes and not is_ours, escaped)
    return Place(
        element=element,
        offset=offset,
        source="" if element.name == "area" else source_of(element),
        alt=element.attributes.get("alt"),
        is_draft=is_draft,
        spot=None if element.name == "area" else spot,
    )


def source_of(image: Element) -> str:
    """Source of an image, also if a script loads it late."""
    shown_first = image.get("src")
    if not _is_stand_in(shown_first):
        return shown_first
    late = [image.get(name) for name in _LAZY]
    sets = [image.get(name) for name in (*_LAZY_SETS, "srcset")]
    if picture := image.within("picture"):
        sources = [one for one in picture.children if isinstance(one, Element)]
        sets += [one.get(name) for one in sources for name in ("srcset", *_LAZY_SETS)]
    found = [*late, *map(_of_set, sets)]
    return next((one for one in found if not _is_stand_in(one)), shown_first)


def _is_stand_in(source: str) -> bool:
    """True if the source is a placeholder that a script replaces."""
    if not source or source.startswith("data:"):
        return True
    return bool(_STAND_IN.search(source.rpartition("/")[2]))


def _of_set(srcset: str) -> str:
    """Choose one of a srcset: the widest that is not larger than needed."""
    widths: list[tuple[float, str]] = []
    for candidate in re.split(r",\s+|,$", srcset.strip()):
        url, _, size = candidate.strip().partition(" ")
        number = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)[wx]", size.strip())
        if url:
            widths.append((float(number[1]) if number else 1.0, url))
    if not widths:
        return ""
    fitting = [one for one in widths if one[0] <= _WIDE_ENOUGH]
    return max(fitting)[1] if fitting else min(widths)[1]


def _remark(element: Element) -> tuple[str, str] | None:
    if element.name == "svg" and not element.within("svg"):
        hidden = element.get("aria-hidden") == "true" or element.get("role") == "presentation"
        if not hidden and not element.get("aria-label") and not element.find("title"):
            return "inline SVG", "give it a <title>, or aria-hidden if it is an ornament"
    if element.name == "object" and element.get("type").startswith("image/"):
        return f"object {element.get('data')}", "its alternative is its content"
    if element.name == "canvas" and not element.text():
        return "canvas", "its alternative is its content"
    return None


def _backgrounds(element: Element) -> list[str]:
    css = element.get("style")
    if element.name == "style":
        css = "".join(one for one in element.children if isinstance(one, str))
    return [found.strip() for found in _BACKGROUND.findall(css) if not found.startswith("data:")]


def backgrounds(css: str) -> list[Remark]:
    """Find backgrounds of a style sheet."""
    return [
        Remark(found.start(), f"CSS background {found[1].strip()}", "text cannot be put beside it")
        for found in _BACKGROUND.finditer(css)
        if not found[1].startswith("data:")
    ]
