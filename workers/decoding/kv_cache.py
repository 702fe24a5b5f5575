"""The KV cache: keys and values of all sequence slots, in buffers that are allocated once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache


@dataclass(frozen=True, slots=True)
class SlotConfig:
    """Number and size of the sequence slots, and how a decode step treats them.

    Attributes:
        slots: Sequences that are decoded at the same time.
        length: Tokens that a slot holds, prompt and answer together.
        static_shapes: Every step computes all slots, so that no shape depends on how many are used.
        batch_invariant: Every prompt is prefilled alone, and every step attends to whole slots.
        async_readback: A step's tokens are read after the next step has been launched.
        features_bytes: Bound of the cache of image features, and of the prefix cache.
    """

    slots: int
    length: int
    static_shapes: bool
    batch_invariant: bool
    async_readback: bool
    features_bytes: int
    dtype: torch.dtype
    device: torch.device


class KVCache(Cache):  # type: ignore[misc]
    """A transformers cache that writes where `begin_prefill` or `begin_decode` last pointed it.

    A slot need not be cleared before reuse: positions that its sequence has not written yet are
    masked out.

    Args:
        layers: Layers of the text model.
        kv_heads: Heads of keys and values in a layer.
        head_size: Numbers in a head.
        config: Number and length of the slots.
    """

    def __init__(self, layers: int, kv_heads: int, head_size: int, config: SlotConfig) -> None:
        self.layers: list[object] = []
        shape = (config.slots, kv_heads, config.length, head_size)
        self._keys, self._values = (
            [torch.zeros(shape, dtype=config.dtype, device=config.device) for _ in range(layers)]
            for _ in range(2)
        )
        self._slots = self._positions = torch.empty(0, dtype=torch.long)
        self._resumed: list[tuple[int, int]] | None = None
        self._visible = 0

    def begin_prefill(
        self,
        slots: torch.Tensor,
        positions: torch.Tensor,
        resumed: Sequence[tuple[int, int]] | None,
    ) -> None:
        """Point the cache at the tokens of a prefill, whose prompts are packed end to end.

        Args:
            slots: Slot of each token, (tokens,).
            positions: Position of each token in its slot, (tokens,).
            resumed: If any prompt continues a cached prefix: slot and whole length of every prompt.
        """
        self._slots, self._positions, self._visible = slots, positions, 0
        self._resumed = None if resumed is None else list(resumed)

    def begin_decode(self, slots: torch.Tensor, positions: torch.Tensor, visible: int) -> None:
        """Point the cache at a decode step: one token a slot, attending to `visible` positions."""
        self._slots, self._positions, self._visible = slots, positions, visible

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write keys and values, and return those to attend to. Called by the model's layers."""
        keys, values = self._keys[layer], self._values[layer]
        if self._visible:
            keys[self._slots, :, self._positions] = key[:, :, 0]
            values[self._slots, :, self._positions] = value[:, :, 0]
            count = len(self._slots)
            return keys[:count, :, : self._visible], values[:count, :, : self._visible]
        keys[self._slots, :, self._positions] = key[0].transpose(0, 1)
        values[self._slots, :, self._positions] = value[0].transpose(0, 1)
        if self._resumed is None:
            return key, value
        return self._packed(keys), self._packed(values)

    def _packed(self, buffer: torch.Tensor) -> torch.Tensor:
        assert self._resumed is not None
        return torch.cat([buffer[slot, :, :length] for slot, length in self._resumed], 1)[None]

    def prefix(self, slot: int, length: int) -> list[torch.Tensor]:
        """Views of the first `length` positions of a slot: keys, then values, of all layers."""
        return [buffer[slot, :, :length] for buffer in (*self._keys, *self._values)]

    def write_prefix(self, slot: int, prefix: Sequence[torch.Tensor]) -> None:
        """Copy a `prefix` to the first positions of a slot."""
        for buffer, part in zip((*self._keys, *self._values), prefix, strict=True):
            buffer[slot, :, : part.shape[1]] = part

    def clear_slot(self, slot: int) -> None:
        """Zero a slot that holds NaN, which would spoil sums even where it is masked out."""
        for buffer in (*self._keys, *self._values):
            buffer[slot].zero_()

    def move_slot(self, slot: int, to: int, length: int) -> None:
        """Copy the first `length` positions of one slot to another."""
        for buffer in (*self._keys, *self._values):
            buffer[to, :, :length] = buffer[slot, :, :length]

    # ---- the interface of transformers' Cache -------------------------------------------

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return 0: position ids are always passed, so the model counts nothing from here."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Return the visible positions; masks are always passed, so only the form matters."""
        return self._visible, 0
