"""Elements of a page, each with the position of its start tag in the page's text.

    text ─▶ as a browser reads HTML (justhtml), or as XML (expat) ─▶ Element

Both give the same tree, so that whatever looks at images knows nothing of the two languages.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat

from justhtml import JustHTML

from idefiq.errors import IdefiqError

#: Elements whose text is not rendered.
SILENT = frozenset({"script", "style", "template", "noscript", "title", "head", "svg"})


@dataclass(eq=False, slots=True)
class Element:
    """An element of a page.

    Attributes:
        name: In lower case, without a prefix.
        attributes: As the parser reads them; names in lower case.
        offset: Where its start tag begins in the text; None if the text has none for it.
    """

    name: str
    attributes: dict[str, str]
    offset: int | None = None
    parent: "Element | None" = None
    children: "list[Element | str]" = field(default_factory=list)

    def get(self, name: str) -> str:
        """Return an attribute, stripped; empty if it is missing."""
        return self.attributes.get(name, "").strip()

    def add(self, child: "Element | str") -> None:
        """Append a child."""
        if isinstance(child, Element):
            child.parent = self
        self.children.append(child)

    def ancestors(self) -> "Iterator[Element]":
        """Yield its parent, that one's parent, and so on."""
        above = self.parent
        while above is not None:
            yield above
            above = above.parent

    def within(self, *names: str) -> "Element | None":
        """Return the nearest ancestor with one of these names."""
        return next((above for above in self.ancestors() if above.name in names), None)

    def walk(self) -> "Iterator[Element]":
        """Yield itself and all descendants, in page order."""
        waiting: list[Element] = [self]
        while waiting:
            element = waiting.pop()
            yield element
            waiting += [one for one in reversed(element.children) if isinstance(one, Element)]

    def find(self, name: str) -> "Element | None":
        """Return the first descendant with this name."""
        return next((one for one in self.walk() if one.name == name and one is not self), None)

    def is_silent(self) -> bool:
        """True if its text is not read, or it is the link of a heading to itself."""
        hidden = self.get("aria-hidden") == "true" or "hidden" in self.attributes
        return self.name in SILENT or hidden or "headerlink" in self.get("class")

    def text(self, *, without: "Sequence[Element]" = (), most: int = 10_000) -> str:
        """Text that is read in it, with white space collapsed; some elements left out.

        Args:
            without: Elements whose text is not meant.
            most: About so many characters are enough: whole pages are asked for again and again.
        """
        pieces: list[str] = []
        waiting: list[Iterator[Element | str]] = [iter(self.children)]
        while waiting and most > 0:
            node = next(waiting[-1], None)
            if node is None:
                waiting.pop()
            elif isinstance(node, str):
                pieces.append(node)
                most -= len(node.strip())
            elif node not in without and not node.is_silent():
                pieces.append(" " if node.name in ("br", "p", "li", "td", "div") else "")
                most -= 1
                waiting.append(iter(node.children))
        return " ".join("".join(pieces).split())


def html_tree(text: str) -> Element:
    """Parse HTML as a browser without scripts does; nothing in it is an error."""
    # Positions must be those of the text as it is: a parser makes one character of CRLF, and
    # none of a mark of the order of bytes.
    shadow = text.replace("\r", " ").replace("\0", " ").replace("\ufeff", " ")
    document = JustHTML(shadow, track_node_locations=True, sanitize=False, scripting_enabled=False)
    root = Element("", {})
    waiting: list[tuple[Any, Element]] = [(document.root, root)]
    while waiting:
        node, element = waiting.pop()
        content = getattr(node, "template_content", None)
        for child in [*(node.children or ()), *((content.children or ()) if content else ())]:
            if child.name == "#text":
                element.add(str(child.data))
            elif child.name[0] not in "#!":
                made = _element(child)
                element.add(made)
                waiting.append((child, made))
    return root


def _element(node: Any) -> Element:
    attributes = {name.lower(): value or "" for name, value in (node.attrs or {}).items()}
    return Element(node.name.lower(), attributes, node.origin_offset)


def xml_tree(text: str) -> Element:
    """Parse XHTML as XML, where every element may be self-closing.

    Raises:
        IdefiqError: It is not well-formed.
    """
    data = text.encode(errors="surrogateescape")
    # The text is decoded already, whatever its declaration says.
    parser = expat.ParserCreate("utf-8")
    parser.UseForeignDTD(True)  # names such as &nbsp; are declared elsewhere
    parser.ExternalEntityRefHandler = lambda *_: 1
    parser.buffer_text = True
    root = Element("", {})
    open_now, reached = [root], [0, 0]

    def offset() -> int:
        at = parser.CurrentByteIndex
        reached[1] += len(data[reached[0] : at].decode(errors="surrogateescape"))
        reached[0] = at
        return reached[1]

    def start(name: str, attributes: dict[str, str]) -> None:
        plain = {_local(key): value for key, value in attributes.items()}
        element = Element(_local(name), plain, offset())
        open_now[-1].add(element)
        open_now.append(element)

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: open_now.pop()
    parser.CharacterDataHandler = lambda piece: open_now[-1].add(piece)
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise IdefiqError(f"it is not well-formed XML: {error}") from error
    return root


def _local(name: str) -> str:
    prefix, colon, local = name.rpartition(":")
    return (name if colon and prefix == "epub" else local).lower()
