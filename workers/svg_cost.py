"""Counts what an SVG makes its renderer draw, before it is drawn.

A small SVG can say a lot of work: a symbol that uses another ten times, which uses another ten
times, and so on; one photograph a thousand times; a blur over everything for each of its elements.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from db.vocabulary.errors import ImageTooLarge

#: Elements, with what `use` repeats counted each time; a detailed map has tens of thousands.
MAX_DRAWN = 200_000
#: Raster images, each time they are drawn.
MAX_RASTERS = 256
#: Elements with a filter, each time they are drawn; each filter works on all pixels anew.
MAX_FILTERED = 256
#: Rules of style sheets, and how many of them are compared with how many elements.
MAX_RULES, MAX_COMPARISONS = 10_000, 20_000_000


@dataclass(slots=True)
class _Cost:
    """What is drawn: elements, raster images, elements with a filter."""

    drawn: int = 0
    rasters: int = 0
    filtered: int = 0

    def add(self, other: "_Cost") -> None:
        self.drawn += other.drawn
        self.rasters += other.rasters
        self.filtered += other.filtered


@dataclass(slots=True)
class _Node:
    """An element: its own cost, its children, and the id of what it uses."""

    own: _Cost
    children: list["_Node"] = field(default_factory=list)
    uses: str | None = None
    #: With children and what is used; None while that is not known.
    whole: _Cost | None = None


class DrawingCost:
    """Follows the elements of an SVG, and rejects one that costs too much."""

    def __init__(self) -> None:
        self._root = _Node(_Cost())
        self._open = [self._root]
        self._by_id: dict[str, _Node] = {}
        self._elements = self._rules = 0

    def begin(self, name: str, attributes: Mapping[str, str]) -> None:
        """Count an element that begins."""
        kind = name.rpartition(":")[2]
        is_filtered = "filter" in attributes or "filter" in attributes.get("style", "")
        node = _Node(_Cost(1, int(kind in ("image", "feImage")), int(is_filtered)))
        self._elements += 1
        if kind == "use":
            href = attributes.get("href") or attributes.get("xlink:href") or ""
            node.uses = href.strip().removeprefix("#")
        if identifier := attributes.get("id"):
            self._by_id.setdefault(identifier, node)
        self._open[-1].children.append(node)
        self._open.append(node)

    def end(self) -> None:
        """An element ends."""
        self._open.pop()

    def style(self, text: str) -> None:
        """Count the rules of a style sheet."""
        self._rules += text.count("{")

    def check(self) -> None:
        """Reject what costs too much.

        Raises:
            ImageTooLarge: The message says what there is too much of.
        """
        self._sum_up()
        cost = self._root.whole or _Cost()
        comparisons = self._rules * self._elements
        for count, most, what in (
            (cost.drawn, MAX_DRAWN, "elements to draw"),
            (cost.rasters, MAX_RASTERS, "raster images to draw"),
            (cost.filtered, MAX_FILTERED, "elements with filters"),
            (self._rules, MAX_RULES, "rules of style sheets"),
            (comparisons, MAX_COMPARISONS, "comparisons of rules with elements"),
        ):
            if count > most:
                raise ImageTooLarge(f"an SVG with more than {most} {what}")

    def _sum_up(self) -> None:
        """Find the whole cost of each element, without recursion: an SVG may be deep."""
        entered: set[int] = set()
        stack = [self._root]
        while stack:
            node = stack[-1]
            if node.whole is not None:
                stack.pop()
                continue
            parts = self._parts(node)
            if id(node) not in entered:
                entered.add(id(node))
                stack += [part for part in parts if part.whole is None and id(part) not in entered]
                continue
            whole = _Cost(node.own.drawn, node.own.rasters, node.own.filtered)
            for part in parts:
                if part.whole is not None:  # None: it contains itself, and renderers skip it
                    whole.add(part.whole)
            node.whole = whole
            stack.pop()

    def _parts(self, node: _Node) -> list[_Node]:
        used = self._by_id.get(node.uses) if node.uses else None
        return [*node.children, used] if used else node.children
