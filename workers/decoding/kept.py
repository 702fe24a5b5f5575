"""Tensors that are kept for the next who needs them, within a number of bytes."""

from collections import OrderedDict
from collections.abc import Sequence

import torch


class Kept:
    """What has been made of something, by its name; the least recently used go first.

    Args:
        most_bytes: Of all together; 0 keeps nothing.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self._bytes = most_bytes, 0
        self._kept: OrderedDict[bytes, list[torch.Tensor]] = OrderedDict()

    def __contains__(self, name: bytes) -> bool:
        return name in self._kept

    def get(self, name: bytes) -> list[torch.Tensor] | None:
        """What is kept under a name, if it is here."""
        if name in self._kept:
            self._kept.move_to_end(name)
        return self._kept.get(name)

    def put(self, name: bytes, tensors: Sequence[torch.Tensor]) -> None:
        """Keep copies: a part of a larger tensor would hold all of it."""
        size = _bytes(tensors)
        if name in self._kept or size > self._most_bytes:
            return
        self._kept[name] = [tensor.clone() for tensor in tensors]
        self._bytes += size
        while self._bytes > self._most_bytes:
            _, old = self._kept.popitem(last=False)
            self._bytes -= _bytes(old)

    def clear(self) -> None:
        """Keep nothing of what is here."""
        self._kept.clear()
        self._bytes = 0


def _bytes(tensors: Sequence[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
