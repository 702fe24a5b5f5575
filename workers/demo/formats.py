"""Ways to write down what a picture shows, to be taken over from a solved example.

The question says nothing about the format: only the example does. Some formats are held out of
training, to measure whether their parts (entry, separator, beginning) were learnt apart.
"""

import itertools
import random
from dataclasses import dataclass

from workers.demo.scenes import Scene

_ENTRIES = ("{size} {color} {kind}", "{color} {kind}", "{kind} ({color})", "{kind}")
_SEPARATORS = (", ", " and ", " | ", "; ")
_BEGINNINGS = ("", "Shapes: ", "Image of ", "- ")


@dataclass(frozen=True, slots=True)
class Format:
    """A form in which shapes are listed, such as "Shapes: red circle; blue star"."""

    entry: str
    separator: str
    beginning: str

    def write(self, scene: Scene) -> str:
        """The shapes of `scene`, in the order of its caption."""
        entries = [self.entry.format(size=s.size, color=s.color, kind=s.kind) for s in scene.shapes]
        return self.beginning + self.separator.join(entries)


ALL = tuple(Format(*parts) for parts in itertools.product(_ENTRIES, _SEPARATORS, _BEGINNINGS))
#: Never shown in training: each part of them is, with other parts.
HELD_OUT_FORMATS = tuple(random.Random(5).sample(ALL, 12))
TRAINED_FORMATS = tuple(one for one in ALL if one not in HELD_OUT_FORMATS)
