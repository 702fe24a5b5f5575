"""Pixels as uint8 until they are on the device, and batches of images for the vision encoder.

The image processor of transformers resizes and cuts images on the CPU. To normalize them there
would cost as much again and send four times the bytes. So the processor does not normalize, and
the device looks the values up in a table that the processor itself computed.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from workers.decoding.attention import PackedSequences, packed_attention
from workers.decoding.prompt import ImageInput


class PixelNormalizer:
    """Normalizes pixels on the device, by a table of the values that a processor gives each byte.

    Args:
        image_processor: An image processor of transformers; it normalizes nothing from then on.
    """

    def __init__(self, image_processor: Any) -> None:
        all_bytes = np.arange(256, dtype=np.uint8)
        levels = np.broadcast_to(all_bytes[None, None], (3, 1, 256))
        numbers: Any = levels
        if image_processor.do_rescale:
            numbers = image_processor.rescale(numbers, image_processor.rescale_factor)
        if image_processor.do_normalize:
            mean, std = image_processor.image_mean, image_processor.image_std
            numbers = image_processor.normalize(numbers, mean, std)
        self._table = torch.tensor(np.asarray(numbers)[:, 0].astype(np.float32))
        self._tables: dict[tuple[torch.device, torch.dtype], torch.Tensor] = {}
        image_processor.do_rescale = image_processor.do_normalize = False

    def normalize(self, pixels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Turn uint8 (…, 3, height, width) into `dtype` on the same device."""
        where = pixels.device, dtype
        if where not in self._tables:
            self._tables[where] = self._table.to(*where)
        channels = [
            table.index_select(0, channel.flatten().int()).view(channel.shape)
            for table, channel in zip(self._tables[where], pixels.unbind(-3), strict=True)
        ]
        return torch.stack(channels, -3)


def patch_count(image: ImageInput, side: int) -> int:
    """Number of whole patches of an image."""
    _, height, width = image.pixels.shape
    return int(height // side) * int(width // side)


def batches_by_patches(images: Sequence[ImageInput], side: int, most: int) -> Iterator[list[int]]:
    """Group images for the vision encoder, `most` patches a group. Yields indexes of images.

    Images of one shape are neighbours. A larger image is a group of its own.
    """
    order = sorted(range(len(images)), key=lambda number: images[number].pixels.shape)
    pack: list[int] = []
    held = 0
    for number in order:
        size = patch_count(images[number], side)
        if pack and held + size > most:
            yield pack
            pack, held = [], 0
        pack.append(number)
        held += size
    if pack:
        yield pack


def encode_packed(
    vision: Any, images: Sequence[ImageInput], pixels: PixelNormalizer, device: torch.device
) -> tuple[torch.Tensor, list[int]]:
    """Run images of any shapes through a vision encoder, packed end to end.

    Returns:
        Hidden states of all patches, (patches, width), and the number of patches of each image.
    """
    side, dtype = vision.config.patch_size, vision.post_layernorm.weight.dtype
    embedded: list[torch.Tensor] = [torch.empty(0)] * len(images)
    shapes: dict[torch.Size, list[int]] = {}
    for number, image in enumerate(images):
        shapes.setdefault(image.pixels.shape, []).append(number)
    for (_, height, width), numbers in shapes.items():
        rows, columns = height // side, width // side
        stacked = torch.stack(
            [images[n].pixels[:, : rows * side, : columns * side] for n in numbers]
        ).to(device, non_blocking=True)
        mask = torch.ones(len(numbers), rows, columns, dtype=torch.bool, device=device)
        made = vision.embeddings(
            pixel_values=pixels.normalize(stacked, dtype), patch_attention_mask=mask
        )
        for number, patches_of in zip(numbers, made, strict=True):
            embedded[number] = patches_of
    lengths = [len(one) for one in embedded]
    with packed_attention(PackedSequences(lengths)):
        hidden = vision.encoder(inputs_embeds=torch.cat(embedded)[None]).last_hidden_state
    return vision.post_layernorm(hidden)[0], lengths
