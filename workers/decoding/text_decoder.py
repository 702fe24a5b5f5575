"""Text decoders: prefill and decode steps of a text model whose prompts contain images.

embedded_images.py  images become tokens in the text's own sequence (all but IDEFICS)
cross_attention.py  layers between those of the text attend to images (IDEFICS)

Both run transformers' own text model over a `KVCache`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from workers.decoding.attention import PackedSequences
from workers.decoding.kv_cache import KVCache
from workers.decoding.prompt import EncodedPrompt

#: Tells transformers that masks are made elsewhere; it passes masks of four axes on unchanged.
MASK_GIVEN = torch.ones(1, 1, 1, 1, dtype=torch.bool)


class TextDecoder(ABC):
    """Runs prefill and decode steps of one text model over the slots of a KV cache."""

    #: Shape of the KV cache, and the most images in a prompt (0 for any number).
    layers: int
    kv_heads: int
    head_size: int
    max_images = 0

    @abstractmethod
    def prefill(
        self, batch: "PrefillBatch", features: Sequence[Sequence[torch.Tensor]], cache: KVCache
    ) -> torch.Tensor:
        """Run packed prompts through the model. Returns hidden states (tokens, width).

        Args:
            features: Features of each prompt's images, from `first_image_needed` on.
        """

    @abstractmethod
    def first_image_needed(self, prompt: EncodedPrompt, start: int) -> int:
        """Index of the first image whose features a prefill from token `start` on needs."""

    @abstractmethod
    def decode_step(
        self, tokens: torch.Tensor, positions: torch.Tensor, visible: int, cache: KVCache
    ) -> torch.Tensor:
        """Run one token a slot through the model. Returns hidden states (slots, width)."""

    def allocate(self, slots: int) -> None:  # noqa: B027 - most hold nothing
        """Allocate what the decoder holds for each slot besides the KV cache."""

    def slot_bytes(self) -> int:
        """Bytes that the decoder holds for each slot besides the KV cache."""
        return 0

    def move_slot(self, slot: int, to: int) -> None:  # noqa: B027 - most hold nothing
        """Copy what the decoder holds for one slot to another."""

    def clear_slot(self, slot: int) -> None:  # noqa: B027 - most hold nothing
        """Zero what the decoder holds for a slot."""


class PrefillBatch:
    """Prompts to prefill, packed end to end, each without the prefix that its slot has cached.

    Args:
        prompts: The prompts.
        slots: Slot of each prompt.
        starts: Tokens of each prompt that are in its slot already.
    """

    def __init__(
        self,
        prompts: Sequence[EncodedPrompt],
        slots: Sequence[int],
        starts: Sequence[int],
        device: torch.device,
    ) -> None:
        self.prompts, self.starts, self.slots = prompts, starts, slots
        parts = list(zip(prompts, starts, strict=True))
        #: Tokens of each prompt that are still to be computed.
        self.lengths = [len(prompt.ids) - start for prompt, start in parts]
        self.ids = torch.cat([prompt.ids[start:] for prompt, start in parts]).to(device)
        self.positions = torch.cat(
            [torch.arange(start, len(prompt.ids)) for prompt, start in parts]
        ).to(device)
        lengths = torch.tensor(self.lengths)
        self._slot_of_token = torch.tensor(slots).repeat_interleave(lengths).to(device)
        #: Index of each prompt's last token in the packed row.
        self.ends = (lengths.cumsum(0) - 1).to(device)

    def packed_sequences(self) -> PackedSequences:
        """Describe how the prompts are packed, for causal attention within each."""
        wholes = [len(prompt.ids) for prompt in self.prompts]
        keys = wholes if any(self.starts) else None
        return PackedSequences(self.lengths, keys, causal=True, blocks=self._blocks())

    def _blocks(self) -> list[torch.Tensor] | None:
        layouts = [prompt.layout for prompt in self.prompts]
        if all(layout.blocks is None for layout in layouts):
            return None
        return [
            torch.full_like(prompt.ids, -1) if layout.blocks is None else layout.blocks
            for prompt, layout in zip(self.prompts, layouts, strict=True)
        ]

    def positions_of_axes(self, axes: int) -> torch.Tensor:
        """Positions for rotary embeddings of several axes, int64 (axes, tokens)."""
        of_prompts = []
        for prompt, start in zip(self.prompts, self.starts, strict=True):
            positions = prompt.layout.positions
            if positions is None:
                positions = torch.arange(len(prompt.ids)).expand(axes, -1)
            of_prompts.append(positions[:, start:])
        return torch.cat(of_prompts, 1).to(self.ids.device)

    def point(self, cache: KVCache) -> None:
        """Point the cache at the slots and positions of these tokens."""
        resumed = None
        if any(self.starts):
            resumed = [(slot, len(p.ids)) for slot, p in zip(self.slots, self.prompts, strict=True)]
        cache.begin_prefill(self._slot_of_token, self.positions, resumed)


def begin_decode_step(positions: torch.Tensor, visible: int, cache: KVCache) -> torch.Tensor:
    """Point the cache at a decode step. Returns its mask: bool (slots, 1, 1, visible)."""
    slots = torch.arange(len(positions), device=positions.device)
    cache.begin_decode(slots, positions, visible)
    mask = torch.arange(visible, device=positions.device)[None] <= positions[:, None]
    return mask[:, None, None]
