"""An LRU cache of tensors, bounded in bytes."""

from collections import OrderedDict
from collections.abc import Sequence

import torch


class TensorCache:
    """LRU cache of lists of tensors by key, bounded in bytes.

    Args:
        max_bytes: Bound of all tensors together; 0 caches nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._entries: OrderedDict[bytes, list[torch.Tensor]] = OrderedDict()

    def __contains__(self, key: bytes) -> bool:
        return key in self._entries

    def get(self, key: bytes) -> list[torch.Tensor] | None:
        """Return the tensors of a key, or None, and mark the key as recently used."""
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def put(self, key: bytes, tensors: Sequence[torch.Tensor]) -> None:
        """Cache copies of tensors: a view would keep the whole of a larger tensor in memory."""
        size = _bytes(tensors)
        if key in self._entries or size > self._max_bytes:
            return
        self._entries[key] = [tensor.clone() for tensor in tensors]
        self._bytes += size
        while self._bytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self._bytes -= _bytes(oldest)

    def clear(self) -> None:
        """Drop every entry."""
        self._entries.clear()
        self._bytes = 0


def _bytes(tensors: Sequence[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
