"""Images of Markdown: its own, and those of the HTML in it.

    events with ranges (pulldown-cmark) ─▶ a tree like that of HTML ─▶ places
    the same text with all but its HTML made harmless ─▶ HTML's reader ─▶ places

In `![text][label]` only the text is changed; `![label]` becomes `![text][label]`, because there
the label is the text.
"""

import re
import sys
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyromark import Options, events_with_range

from idefiq.alt.context import HEADINGS, PageContext
from idefiq.alt.places import Document, Place, Remark, in_tags
from idefiq.alt.tags import Edit, end_of_tag
from idefiq.alt.tree import Element, html_tree
from idefiq.errors import IdefiqError

DRAFT_MARK = "<!--alt-draft-->"
#: Says that an empty text is meant, which Markdown itself cannot say.
DECORATIVE_MARK = "<!--decorative-->"
_OPTIONS = (
    Options.ENABLE_TABLES
    | Options.ENABLE_FOOTNOTES
    | Options.ENABLE_STRIKETHROUGH
    | Options.ENABLE_TASKLISTS
    | Options.ENABLE_HEADING_ATTRIBUTES
    | Options.ENABLE_DEFINITION_LIST
    | Options.ENABLE_YAML_STYLE_METADATA_BLOCKS
    | Options.ENABLE_PLUSES_DELIMITED_METADATA_BLOCKS
)
#: Braces are code in MDX and in templates.
_SPECIAL = re.compile(r"[\\`*_\[\]<>&~$|{}]")
#: Of kramdown, Pandoc and MkDocs.
_ATTRIBUTES = re.compile(r"\{:?(?:[^{}\n]|\{\{[^{}\n]{0,200}\}\}){0,500}\}")
#: An image whose destination is code is none to CommonMark.
_CODE_DESTINATION = re.compile(r"!\[[^\]\n]{0,500}\]\([^)\n]{0,500}(?:\{\{|\{%)[^\n]{0,500}")
#: So many elements before a tag are looked at for the one that it is in.
_NEAR = 200
#: Binds as tightly as a tag, or more so: code, and the cells of a table.
_BINDS = "`|"
_NAMES = {"Paragraph": "p", "Item": "li", "TableCell": "td", "BlockQuote": "blockquote"}
_SHORTCODE = re.compile(
    r"\{\{[<%]\s*(?:figure|image|img)\b[^}]{0,500}\}\}|^:{3,}\{(?:figure|image)\}[^\n]*"
    r"|^`{3}\{(?:figure|image)\}[^\n]*|^[ \t]*\.\. (?:image|figure)::[^\n]*"
    r"|!\[\[[^\]\n]{1,300}\]\]",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class MarkdownSpot:
    """The text between `![` and `]`; `label` is that of `![label]` and `![label][]`."""

    start: int
    end: int
    image_end: int
    mark_at: int
    label: str | None
    mark: str

    def edits(self, text: str, alt: str, *, is_draft: bool, language: str) -> list[Edit]:
        """See Spot; Markdown cannot say a language."""
        written = _SPECIAL.sub(_escaped, " ".join(alt.split()))
        edit = Edit(self.start, self.end, written)
        if self.label is not None:
            # An empty text would make the label the text again.
            edit = Edit(self.start, self.image_end, f"{written}][{self.label}]")
        mark = DRAFT_MARK if is_draft else "" if written else DECORATIVE_MARK
        return [edit, Edit(self.mark_at, self.mark_at + len(self.mark), mark)]


def _escaped(special: re.Match[str]) -> str:
    # Behind a backslash, these would still begin a template's code.
    return f"&#{ord(special[0])};" if special[0] in "{}<>" else f"\\{special[0]}"


def read(text: str) -> Document:
    """Read a page of Markdown.

    Raises:
        IdefiqError: It is not UTF-8.
    """
    try:
        events = events_with_range(text, options=_OPTIONS)
    except UnicodeEncodeError as error:
        raise IdefiqError("it is not UTF-8") from error
    reader = _Reader(text)
    for event, span in events:
        reader.take(event, reader.at[span["start"]], reader.at[span["end"]])
    html = _merged(reader.html)
    in_html, remarks = in_tags(html_tree(_harmless(text, html)), escaped=_BINDS)
    # A tag that is cut off by the end of its block is not a tag any more.
    in_html = [
        place for place in in_html if _is_in(place.offset, end_of_tag(text, place.offset), html)
    ]
    title, language = _front_matter(reader.front_matter)
    page = PageContext.of(reader.root, title=title, language=language)
    _put_below([place.element for place in in_html], reader.ranges)
    places = sorted([*reader.places, *in_html], key=lambda place: place.offset)
    seen = {place.offset for place in places}
    shortcodes = [
        Remark(
            found.start(), found[0].strip(), "it is for the site's generator: write its text there"
        )
        for found in _SHORTCODE.finditer(text)
        if found.start() not in seen and not _is_in(*found.span(), html)
    ]
    made = [
        Remark(found.start(), found[0].strip(), "its address is code: write its text there")
        for found in _CODE_DESTINATION.finditer(text)
        if found.start() not in seen
    ]
    return Document(page, places, [*remarks, *shortcodes, *made])


class _Reader:
    """Builds a tree of parser events, and the places of images in it."""

    def __init__(self, text: str) -> None:
        self._text = text
        #: From a position in UTF-8 to one in the text.
        self.at: Sequence[int] = range(len(text) + 1)
        if not text.isascii():
            widths = (len(letter.encode()) for letter in text)
            self.at = [n for n, width in enumerate(widths) for _ in range(width)] + [len(text)]
        self.root = Element("body", {}, 0)
        self._open = [self.root]
        self.html: list[tuple[int, int]] = []
        self.places: list[Place] = []
        self.front_matter = ""
        self._in_front_matter = False
        #: Of the image that is read: its element, type, label, and where what is in it ends.
        self._image: tuple[Element, str, str] | None = None
        self._images_within = 0
        self._inner_end = 0
        #: Where each element is in the text.
        self.ranges: list[tuple[int, int, Element]] = []

    def take(self, event: Any, start: int, end: int) -> None:
        """One event."""
        if isinstance(event, str):
            if event in ("SoftBreak", "HardBreak"):
                self._say(" ", end)
            return
        [(what, payload)] = event.items()
        if what == "Start":
            self._start(payload, start)
        elif what == "End":
            self._end(payload, end)
        elif what in ("Html", "InlineHtml"):
            self.html.append((start, end))
            self._inner_end = end
        elif what in ("Text", "Code"):
            self._say(str(payload), end)

    def _say(self, text: str, end: int) -> None:
        if self._in_front_matter:
            self.front_matter += text
        elif self._image:
            element = self._image[0]
            element.attributes["alt"] += text
            self._inner_end = end
        else:
            self._open[-1].add(text)

    def _start(self, payload: Any, start: int) -> None:
        name, detail = next(iter(payload.items())) if isinstance(payload, dict) else (payload, {})
        self._in_front_matter = self._in_front_matter or name == "MetadataBlock"
        if self._image:
            self._images_within += name == "Image"
            return
        element = _element(name, detail, start)
        self._open[-1].add(element)
        self._open.append(element)
        if name == "Image":
            self._image = (element, detail["link_type"], detail["id"])
            self._inner_end = start + 2

    def _end(self, payload: Any, end: int) -> None:
        name = next(iter(payload)) if isinstance(payload, dict) else payload
        if name == "MetadataBlock":
            self._in_front_matter = False
        if self._image:
            if name != "Image" or self._images_within:
                self._images_within -= name == "Image"
                self._inner_end = max(self._inner_end, end)
                return
            self.places.append(self._place(*self._image, end))
            self._image = None
        element = self._open.pop()
        self.ranges.append((element.offset or 0, end, element))

    def _place(self, element: Element, kind: str, label: str, end: int) -> Place:
        start = element.offset or 0
        if kind == "Collapsed" and self._text.startswith("[]", end):
            end += 2  # the parser leaves them out
        close = self._text.index("]", self._inner_end)
        attributes = _ATTRIBUTES.match(self._text, end)
        # A mark before them would take them from the image.
        mark_at = attributes.end() if attributes else end
        marks = (DRAFT_MARK, DECORATIVE_MARK)
        mark = next((one for one in marks if self._text.startswith(one, mark_at)), "")
        names_itself = kind in ("Collapsed", "Shortcut")
        if names_itself:  # as it is written: the parser folds its case
            label = self._text[start + 2 : close]
        spot = MarkdownSpot(start + 2, close, end, mark_at, label if names_itself else None, mark)
        alt = element.attributes["alt"] or ("" if mark == DECORATIVE_MARK else None)
        # Of an attribute list the renderer takes another alt than ours.
        is_made = bool(attributes and re.search(r"\balt\s*=", attributes[0]))
        is_draft = mark == DRAFT_MARK
        return Place(element, start, element.get("src"), alt, is_draft, spot, is_made=is_made)


def _element(name: str, detail: Mapping[str, Any], start: int) -> Element:
    if name == "Heading":
        return Element(HEADINGS[int(detail["level"][1]) - 1], {}, start)
    if name == "Link":
        return Element("a", {"href": detail["dest_url"], "title": detail["title"]}, start)
    if name == "Image":
        attributes = {"src": detail["dest_url"], "title": detail["title"], "alt": ""}
        return Element("img", attributes, start)
    return Element(_NAMES.get(name, "div"), {}, start)


def _put_below(images: Sequence[Element], ranges: list[tuple[int, int, Element]]) -> None:
    """Put HTML where it is in the Markdown: into its link, list or cell."""
    ranges.reverse()  # of two in the same place, the outer one ended later
    ranges.sort(key=lambda one: (one[0], -one[1]))
    starts = [start for start, _, _ in ranges]
    tops = {}
    for image in images:
        top = image
        while top.parent and top.parent.name not in ("body", "html", ""):
            top = top.parent
        tops[top] = image.offset or 0
    for top, offset in tops.items():
        before = bisect_right(starts, offset)
        near = reversed(ranges[max(0, before - _NEAR) : before])
        top.parent = next((element for _, end, element in near if offset < end), top.parent)


def _merged(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Merge ranges that touch, in order."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _is_in(start: int, end: int, ranges: Sequence[tuple[int, int]]) -> bool:
    """True if one of the ordered ranges holds all from start to end."""
    before = bisect_right(ranges, (start, sys.maxsize))
    return before > 0 and end <= ranges[before - 1][1]


def _harmless(text: str, html: Sequence[tuple[int, int]]) -> str:
    """Return a text of the same length in which only the HTML of a page is HTML."""
    pieces, reached = [], 0
    for start, end in html:
        pieces += [re.sub("[<&]", " ", text[reached:start]), text[start:end]]
        reached = end
    return "".join([*pieces, re.sub("[<&]", " ", text[reached:])])


def _front_matter(text: str) -> tuple[str, str]:
    def said(name: str) -> str:
        found = re.search(rf"^{name}\s*[:=]\s*(.+)$", text, re.MULTILINE | re.IGNORECASE)
        return found[1].strip().strip("\"'") if found else ""

    return said("title"), said("lang") or said("language")
