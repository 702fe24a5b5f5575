"""Pictures on their way to the device: whole bytes until they are there, numbers from then on.

A processor of the library sizes and cuts pictures on the CPU; to turn bytes into numbers there
would cost as much again, and make four bytes of each to be sent. So it is told not to, and the
device looks the numbers up: the very numbers that the processor would have computed.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from workers.decoding.attention import Rows, side_by_side
from workers.decoding.prompt import Picture


class Pixels:
    """What each byte of a channel becomes; taken from a processor, which leaves bytes alone then.

    Args:
        image_processor: Of the library.
    """

    def __init__(self, image_processor: Any) -> None:
        bytes_of = np.arange(256, dtype=np.uint8)
        levels = np.broadcast_to(bytes_of[None, None], (3, 1, 256))
        numbers: Any = levels
        if image_processor.do_rescale:
            numbers = image_processor.rescale(numbers, image_processor.rescale_factor)
        if image_processor.do_normalize:
            mean, std = image_processor.image_mean, image_processor.image_std
            numbers = image_processor.normalize(numbers, mean, std)
        self._table = torch.tensor(np.asarray(numbers)[:, 0].astype(np.float32))
        self._tables: dict[tuple[torch.device, torch.dtype], torch.Tensor] = {}
        image_processor.do_rescale = image_processor.do_normalize = False

    def numbers(self, pixels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """From uint8 (…, 3, height, width) on any device to `dtype` there."""
        where = pixels.device, dtype
        if where not in self._tables:
            self._tables[where] = self._table.to(*where)
        channels = [
            table.index_select(0, channel.flatten().int()).view(channel.shape)
            for table, channel in zip(self._tables[where], pixels.unbind(-3), strict=True)
        ]
        return torch.stack(channels, -3)


def patches(picture: Picture, side: int) -> int:
    """How many whole patches a picture has."""
    _, height, width = picture.pixels.shape
    return int(height // side) * int(width // side)


def packs(pictures: Sequence[Picture], side: int, most: int) -> Iterator[list[int]]:
    """Numbers of the pictures that go through the vision part together: at most `most` patches.

    Those of one shape come together. A picture that is larger goes alone.
    """
    order = sorted(range(len(pictures)), key=lambda number: pictures[number].pixels.shape)
    pack: list[int] = []
    held = 0
    for number in order:
        size = patches(pictures[number], side)
        if pack and held + size > most:
            yield pack
            pack, held = [], 0
        pack.append(number)
        held += size
    if pack:
        yield pack


def encode_packed(
    vision: Any, pictures: Sequence[Picture], pixels: Pixels, device: torch.device
) -> tuple[torch.Tensor, list[int]]:
    """Run pictures of any shapes through a vision part that takes patches.

    Returns:
        What it says of each patch, (patches, width), and how many each picture has, in order.
    """
    side, dtype = vision.config.patch_size, vision.post_layernorm.weight.dtype
    embedded: list[torch.Tensor] = [torch.empty(0)] * len(pictures)
    shapes: dict[torch.Size, list[int]] = {}
    for number, picture in enumerate(pictures):
        shapes.setdefault(picture.pixels.shape, []).append(number)
    for (_, height, width), numbers in shapes.items():
        rows, columns = height // side, width // side
        stacked = torch.stack(
            [pictures[n].pixels[:, : rows * side, : columns * side] for n in numbers]
        ).to(device, non_blocking=True)
        whole = torch.ones(len(numbers), rows, columns, dtype=torch.bool, device=device)
        made = vision.embeddings(
            pixel_values=pixels.numbers(stacked, dtype), patch_attention_mask=whole
        )
        for number, patches_of in zip(numbers, made, strict=True):
            embedded[number] = patches_of
    lengths = [len(one) for one in embedded]
    with side_by_side(Rows(lengths)):
        seen = vision.encoder(inputs_embeds=torch.cat(embedded)[None]).last_hidden_state
    return vision.post_layernorm(seen)[0], lengths
