"""Keys and values of what every slot has read and said, in memory that is never moved or grown."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache


@dataclass(frozen=True, slots=True)
class Room:
    """What slots there are.

    Attributes:
        slots: Requests at the same time.
        length: Tokens of each, prompt and answer.
        fixed: Whether each step computes all of them.
        apart: Whether each prompt is read by itself.
        late: Whether tokens of a step are looked at when the next has been started.
        features_bytes: Of pictures whose features are kept.
    """

    slots: int
    length: int
    fixed: bool
    apart: bool
    late: bool
    features_bytes: int
    dtype: torch.dtype
    device: torch.device


class SlotCache(Cache):  # type: ignore[misc]
    """What a model of the library takes for its cache: it writes where it was last told to.

    Nothing need be cleared: what a slot has not written yet is masked out by its position.

    Args:
        layers: Of the text model.
        heads: Of its keys and values.
        size: Of a head.
        room: For how many requests of what length.
    """

    def __init__(self, layers: int, heads: int, size: int, room: Room) -> None:
        self.layers: list[object] = []
        shape = (room.slots, heads, room.length, size)
        self._keys, self._values = (
            [torch.zeros(shape, dtype=room.dtype, device=room.device) for _ in range(layers)]
            for _ in range(2)
        )
        self._slots = self._positions = torch.empty(0, dtype=torch.long)
        self._begun: list[tuple[int, int]] | None = None
        self._seen = 0

    def read(
        self, slots: torch.Tensor, positions: torch.Tensor, begun: Sequence[tuple[int, int]] | None
    ) -> None:
        """From now on, take rows of prompts that lie end to end.

        Args:
            slots: The slot of each token, (tokens,).
            positions: Its position in it, (tokens,).
            begun: If any of the prompts is the rest of one: the slot and whole length of each.
        """
        self._slots, self._positions, self._seen = slots, positions, 0
        self._begun = None if begun is None else list(begun)

    def say(self, slots: torch.Tensor, positions: torch.Tensor, seen: int) -> None:
        """From now on, take one token for each slot, and show the first `seen` positions."""
        self._slots, self._positions, self._seen = slots, positions, seen

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write, and return what is attended to; called by the model's layers."""
        keys, values = self._keys[layer], self._values[layer]
        if self._seen:
            keys[self._slots, :, self._positions] = key[:, :, 0]
            values[self._slots, :, self._positions] = value[:, :, 0]
            count = len(self._slots)
            return keys[:count, :, : self._seen], values[:count, :, : self._seen]
        keys[self._slots, :, self._positions] = key[0].transpose(0, 1)
        values[self._slots, :, self._positions] = value[0].transpose(0, 1)
        if self._begun is None:
            return key, value
        return self._whole(keys), self._whole(values)

    def _whole(self, written: torch.Tensor) -> torch.Tensor:
        assert self._begun is not None
        return torch.cat([written[slot, :, :length] for slot, length in self._begun], 1)[None]

    def beginning(self, slot: int, length: int) -> list[torch.Tensor]:
        """The first `length` positions of a slot, as they are: keys, then values of all layers."""
        return [written[slot, :, :length] for written in (*self._keys, *self._values)]

    def put(self, slot: int, begun: Sequence[torch.Tensor]) -> None:
        """Write a `beginning` at that of a slot."""
        for written, own in zip((*self._keys, *self._values), begun, strict=True):
            written[slot, :, : own.shape[1]] = own

    def clear(self, slot: int) -> None:
        """Forget a slot: what is no number would spoil sums even where it is masked."""
        for written in (*self._keys, *self._values):
            written[slot].zero_()

    def move(self, slot: int, to: int, length: int) -> None:
        """Copy the first positions of one slot to another."""
        for written in (*self._keys, *self._values):
            written[to, :, :length] = written[slot, :, :length]

    # ---- what the library asks of a cache ---------------------------------------------

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions are always told, so nothing is counted from here."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Masks are always given."""
        return self._seen, 0
