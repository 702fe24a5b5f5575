"""What the vision part has made of pictures, kept for the next question about them."""

from collections import OrderedDict

import torch


class Features:
    """The least recently used go first.

    Args:
        most_bytes: Of all features together; 0 keeps none.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self._bytes = most_bytes, 0
        self._kept: OrderedDict[bytes, torch.Tensor] = OrderedDict()

    def get(self, key: bytes) -> torch.Tensor | None:
        """Of the picture with this key, if they are here."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: bytes, features: torch.Tensor) -> None:
        """Keep a picture's."""
        size = features.numel() * features.element_size()
        if key in self._kept or size > self._most_bytes:
            return
        self._kept[key] = features
        self._bytes += size
        while self._bytes > self._most_bytes:
            _, old = self._kept.popitem(last=False)
            self._bytes -= old.numel() * old.element_size()
