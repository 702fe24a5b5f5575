"""Context of an image on its page: title, heading, caption, link, surrounding text."""

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from idefiq.alt.roles import ImageRole, RoleDecision
from idefiq.alt.tree import Element

HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
#: Elements with a passage of their own.
_BLOCKS = re.compile(
    "p|li|t[dh]|d[dt]|blockquote|figure|div|section|article|aside|header|footer|main|nav|body"
)
#: A passage with fewer characters says little; the one around it is taken.
_ENOUGH = 30
#: So many boxes around an image are looked at for a passage.
_BOXES = 8
#: A box around an image and its caption has no more children.
_FEW = 30
#: Marks an image whose text is a draft; with this value, so is its `lang`.
DRAFT_ATTRIBUTE, DRAFT_WITH_LANGUAGE = "data-alt-draft", "lang"
#: Most characters of a phrase, and of a passage.
PHRASE, PASSAGE = 200, 400


@dataclass(frozen=True, slots=True)
class Context:
    """Context of one image; empty where there is nothing."""

    page_title: str = ""
    heading: str = ""
    caption: str = ""
    destination: str = ""
    surrounding: str = ""
    language: str = ""

    def as_alt_text(self) -> dict[str, str]:
        """Return the context in the form of the service."""
        named = ("page_title", "heading", "caption", "destination", "surrounding")
        return {name: value for name in named if (value := getattr(self, name))}


def of_image(image: Element, sorted_as: RoleDecision, page: "PageContext") -> Context:
    """Collect the context of an image."""
    caption = _caption(image)
    passage = "" if sorted_as.role is ImageRole.FUNCTIONAL else _passage(image)
    control = sorted_as.control if sorted_as.role is ImageRole.FUNCTIONAL else None
    return Context(
        page_title=_short(page.title, PHRASE),
        heading=_short(page.heading_before(image), PHRASE),
        caption=_short(caption, PHRASE),
        destination=_short(_destination(control), PHRASE) if control else "",
        surrounding=_short("" if passage == caption else passage, PASSAGE),
        language=_language(image) or page.language,
    )


@dataclass(frozen=True, slots=True)
class PageContext:
    """Context that all images of a page share.

    Attributes:
        headings: Where each heading begins, and its text, in the order of the page.
    """

    title: str
    language: str
    headings: Sequence[tuple[int, str]]

    @classmethod
    def of(cls, root: Element, *, title: str = "", language: str = "") -> "PageContext":
        """Read a page's title, language and headings."""
        headings = [
            (element.offset or 0, text)
            for element in root.walk()
            if element.name in HEADINGS and (text := element.text())
        ]
        html, named = root.find("html"), root.find("title")
        first = headings[0][1] if headings else ""
        return cls(
            title=title or (_plain(named) if named else "") or first,
            language=language or (_lang(html) if html else ""),
            headings=headings,
        )

    def heading_before(self, image: Element) -> str:
        """Return the nearest heading above an image."""
        above = bisect_left(self.headings, (image.offset or 0, ""))
        return self.headings[above - 1][1] if above else ""


def _plain(element: Element) -> str:
    return " ".join("".join(one for one in element.children if isinstance(one, str)).split())


def _caption(image: Element) -> str:
    figure = image.within("figure")
    if figure and (caption := figure.find("figcaption")):
        return caption.text()
    for above in islice(image.ancestors(), 3):
        if len(above.children) > _FEW:
            break  # the page itself, and not a box around the image
        for beside in above.children:
            if isinstance(beside, Element) and "caption" in beside.get("class"):
                return beside.text()
    return image.get("title")


def _passage(image: Element) -> str:
    """Text around an image: of the smallest block with text, not of the whole page."""
    caption = image.within("figure")
    without = [image, *([one] if caption and (one := caption.find("figcaption")) else [])]
    blocks = (above for above in image.ancestors() if _BLOCKS.fullmatch(above.name))
    for above in islice(blocks, _BOXES):
        if above.children:
            text = above.text(without=without, most=4 * PASSAGE + 1)
            if len(text) >= _ENOUGH or above.name in ("body", "main", "article"):
                return text if len(text) <= 4 * PASSAGE else _around(above, image)
    return ""


def _around(block: Element, image: Element) -> str:
    """Shorten a long text to what is next to the image."""
    holder = next(one for one in (image, *image.ancestors()) if one.parent is block)
    index = _places(block)[holder]
    texts = [
        beside if isinstance(beside, str) else beside.text(most=PASSAGE)
        for beside in block.children[max(0, index - 2) : index + 3]
        if beside is not holder
    ]
    return " ".join(" ".join(texts).split())


@lru_cache(64)
def _places(block: Element) -> dict[Element, int]:
    """Positions of the elements among a block's children."""
    return {one: n for n, one in enumerate(block.children) if isinstance(one, Element)}


def _destination(control: Element) -> str:
    """Where a link leads, or what a button does, according to the markup."""
    candidates = [control.get(name) for name in ("title", "value", "name", "href")]
    if control.name in ("button", "input"):
        form = control.within("form")
        candidates.append(form.get("action") if form else "")
    return next((one for one in candidates if one and one != "#"), "")


def _language(image: Element) -> str:
    # One that was written with a draft is the draft's.
    own = [] if image.get(DRAFT_ATTRIBUTE) == DRAFT_WITH_LANGUAGE else [image]
    candidates = (lang for above in (*own, *image.ancestors()) if (lang := _lang(above)))
    return next(candidates, "")


def _lang(element: Element) -> str:
    return element.get("lang") or element.get("xml:lang")


def _short(text: str, most: int) -> str:
    """Shorten between words, without characters that cannot be sent."""
    text = " ".join(text.encode(errors="replace").decode().split())
    return text if len(text) <= most else f"{text[:most].rpartition(' ')[0]} …"
