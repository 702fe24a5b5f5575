"""How models read prompts with pictures, and say one token after the other.

merged.py   pictures become tokens among those of the text (Idefics2, Idefics3)
crossed.py  the text looks at pictures from outside, in layers between its own (IDEFICS)

Both run the library's text model as it is, over a `SlotCache`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from workers.decoding.attention import Rows
from workers.decoding.cache import SlotCache
from workers.decoding.prompt import Prompt

#: Tells the library that masks are made by others; it hands masks of four axes on as they are.
GIVEN = torch.ones(1, 1, 1, 1, dtype=torch.bool)


class Reader(ABC):
    """Runs a text model over the slots of a cache."""

    #: Of keys and values; most pictures in a prompt, 0 for any number.
    layers: int
    heads: int
    size: int
    most_pictures = 0

    @abstractmethod
    def read(
        self, rest: "Rest", features: Sequence[Sequence[torch.Tensor]], cache: SlotCache
    ) -> torch.Tensor:
        """Read prompts that lie end to end. Returns what the last layer says: (tokens, width).

        Args:
            features: Of each prompt's pictures from the `first_unread` on.
        """

    @abstractmethod
    def first_unread(self, prompt: Prompt, start: int) -> int:
        """Number of the first picture whose features are needed from token `start` on."""

    @abstractmethod
    def say(
        self, tokens: torch.Tensor, positions: torch.Tensor, seen: int, cache: SlotCache
    ) -> torch.Tensor:
        """Take the next token of the first slots. Returns (slots, width)."""

    def make_room(self, slots: int) -> None:  # noqa: B027 - most hold nothing
        """Make what it holds for each slot besides the cache."""

    def slot_bytes(self) -> int:
        """Of what it holds for a slot."""
        return 0

    def move(self, slot: int, to: int) -> None:  # noqa: B027 - most hold nothing
        """Move what it holds of a slot to another."""

    def clear(self, slot: int) -> None:  # noqa: B027 - most hold nothing
        """Forget what it holds of a slot."""


class Rest:
    """Prompts end to end, each from where its slot has not read it yet.

    Args:
        prompts: What to read.
        slots: Into which slots.
        starts: How many tokens of each are in its slot already.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        slots: Sequence[int],
        starts: Sequence[int],
        device: torch.device,
    ) -> None:
        self.prompts, self.starts, self.numbers = prompts, starts, slots
        parts = list(zip(prompts, starts, strict=True))
        self.lengths = [len(prompt.ids) - start for prompt, start in parts]
        self.ids = torch.cat([prompt.ids[start:] for prompt, start in parts]).to(device)
        self.positions = torch.cat(
            [torch.arange(start, len(prompt.ids)) for prompt, start in parts]
        ).to(device)
        lengths = torch.tensor(self.lengths)
        self.slots = torch.tensor(slots).repeat_interleave(lengths).to(device)
        #: Where the last token of each prompt is.
        self.ends = (lengths.cumsum(0) - 1).to(device)

    def rows(self) -> Rows:
        """How the prompts lie in the row, and what they look at."""
        wholes = [len(prompt.ids) for prompt in self.prompts]
        return Rows(self.lengths, wholes if any(self.starts) else None, causal=True)

    def tell(self, cache: SlotCache) -> None:
        """Tell the cache where to write."""
        begun = None
        if any(self.starts):
            begun = [(slot, len(p.ids)) for slot, p in zip(self.numbers, self.prompts, strict=True)]
        cache.read(self.slots, self.positions, begun)


def say_to(positions: torch.Tensor, seen: int, cache: SlotCache) -> torch.Tensor:
    """Tell the cache where a step writes. Returns the mask: bool (slots, 1, 1, seen)."""
    slots = torch.arange(len(positions), device=positions.device)
    cache.say(slots, positions, seen)
    mask = torch.arange(seen, device=positions.device)[None] <= positions[:, None]
    return mask[:, None, None]
