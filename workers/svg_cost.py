"""Counts what an SVG makes its renderer draw, before it is drawn.

A small SVG can say a lot of work: a symbol that uses another ten times, which uses another ten
times, and so on; patterns in patterns; one photograph a thousand times; a blur over everything for
each of its elements. Whatever refers to a part of the SVG draws that part once more.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from db.vocabulary.errors import ImageTooLarge

#: Elements, with what `use`, patterns, masks and markers repeat counted each time; a detailed map
#: has tens of thousands.
MAX_DRAWN = 200_000
#: Raster images, each time they are drawn.
MAX_RASTERS = 64
#: Layers, each time they are drawn: a group with an opacity needs a picture of its own, a mask, a
#: pattern or a filter needs more.
MAX_LAYERS = 1_024
#: Rules of style sheets, and how many of them are compared with how many elements.
MAX_RULES, MAX_COMPARISONS = 10_000, 20_000_000

#: Attributes that refer to a part that is drawn for them.
_PAINTS = ("fill", "stroke", "filter", "mask", "clip-path", "marker", "style")
_MARKERS = ("marker-start", "marker-mid", "marker-end")
_PART = re.compile(r"url\(\s*[\"']?#([^)\"']+)")
_NUMBERS = re.compile(r"-?[0-9.]+")
#: Layers that each kind of part needs whenever it is drawn.
_LAYERS = {"filter": 4, "mask": 2, "pattern": 2}
#: The same for all elements, if a style sheet speaks of them.
_STYLED = re.compile(r"\b(filter|mask)\s*:\s*url")


@dataclass(slots=True)
class _Cost:
    """What is drawn: elements, raster images, layers. No more than one more than its limit."""

    drawn: int = 0
    rasters: int = 0
    layers: int = 0

    def add(self, other: "_Cost", times: int = 1) -> None:
        self.drawn = min(self.drawn + other.drawn * times, MAX_DRAWN + 1)
        self.rasters = min(self.rasters + other.rasters * times, MAX_RASTERS + 1)
        self.layers = min(self.layers + other.layers * times, MAX_LAYERS + 1)


@dataclass(slots=True)
class _Node:
    """An element: its own cost, its children, and the parts that it refers to, how often each."""

    own: _Cost
    children: list["_Node"] = field(default_factory=list)
    refers: list[tuple[str, int]] = field(default_factory=list)
    #: With children and parts; None while that is not known.
    whole: _Cost | None = None


class DrawingCost:
    """Follows the elements of an SVG, and rejects one that costs too much."""

    def __init__(self) -> None:
        self._root = _Node(_Cost())
        self._open = [self._root]
        self._by_id: dict[str, _Node] = {}
        self._elements = self._rules = self._layers_of_all = 0

    def begin(self, name: str, attributes: Mapping[str, str]) -> None:
        """Count an element that begins."""
        kind = name.rpartition(":")[2]
        layers = _LAYERS.get(kind, 0) + int("opacity" in attributes and kind == "g")
        node = _Node(
            _Cost(1, int(kind in ("image", "feImage")), layers), refers=list(_refers(attributes))
        )
        self._elements += 1
        if kind == "use":
            href = attributes.get("href") or attributes.get("xlink:href") or ""
            node.refers.append((href.strip().removeprefix("#"), 1))
        if identifier := attributes.get("id"):
            self._by_id.setdefault(identifier, node)
        self._open[-1].children.append(node)
        self._open.append(node)

    def end(self) -> None:
        """An element ends."""
        self._open.pop()

    def style(self, text: str) -> None:
        """Count what a style sheet says."""
        self._rules += text.count("{")
        self._layers_of_all += sum(_LAYERS[found[1]] for found in _STYLED.finditer(text))

    def check(self) -> None:
        """Reject what costs too much.

        Raises:
            ImageTooLarge: The message says what there is too much of.
        """
        self._sum_up()
        cost = self._root.whole or _Cost()
        for count, most, what in (
            (cost.drawn, MAX_DRAWN, "elements to draw"),
            (cost.rasters, MAX_RASTERS, "raster images to draw"),
            (cost.layers + cost.drawn * self._layers_of_all, MAX_LAYERS, "layers, as of filters"),
            (self._rules, MAX_RULES, "rules of style sheets"),
            (self._rules * self._elements, MAX_COMPARISONS, "comparisons of rules with elements"),
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
                stack += [part for part, _ in parts if id(part) not in entered]
                continue
            whole = _Cost()
            whole.add(node.own)
            for part, times in parts:
                if part.whole is not None:  # None: it contains itself, and renderers skip it
                    whole.add(part.whole, times)
            node.whole = whole
            stack.pop()

    def _parts(self, node: _Node) -> list[tuple[_Node, int]]:
        found = [(self._by_id.get(name), times) for name, times in node.refers]
        parts = [(part, times) for part, times in found if part is not None]
        return [*((child, 1) for child in node.children), *parts]


def _refers(attributes: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """Yield the ids of the parts that attributes refer to, and how often each is drawn."""
    for name in _PAINTS:
        for found in _PART.finditer(attributes.get(name, "")):
            yield found[1].strip(), 1
    for name in _MARKERS:
        if marker := _PART.search(attributes.get(name, "")):
            points = attributes.get("d", "") or attributes.get("points", "")
            yield marker[1].strip(), 1 + len(_NUMBERS.findall(points)) // 2
