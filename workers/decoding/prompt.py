"""The input of a sequence slot: a prompt's token ids, and its images as bytes."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True, slots=True)
class ImageInput:
    """What the vision encoder takes at once: an image, a tile of one, or all images of a prompt.

    Attributes:
        pixels: uint8 (3, height, width); of all images together as the model's processor made it.
        key: Digest of the pixels; equal for equal pixels.
        pixel_count: Pixels, of three channels each.
        beside: Of all images together: the model's other arguments about them.
        rows: Of all images together: rows of their features.
    """

    pixels: torch.Tensor
    key: bytes
    pixel_count: int
    beside: Mapping[str, torch.Tensor] = field(default_factory=dict)
    rows: int = 0

    @classmethod
    def of(cls, pixels: torch.Tensor) -> "ImageInput":
        """Digest pixels and wrap them."""
        whole = pixels.contiguous()
        return cls(whole, _digest([whole]), whole.numel() // 3)

    @classmethod
    def all_of(
        cls, pixels: torch.Tensor, beside: Mapping[str, torch.Tensor], rows: int, pixel_count: int
    ) -> "ImageInput":
        """Digest and wrap what a processor made of all images of a prompt."""
        given = [pixels, *(tensor for _, tensor in sorted(beside.items()))]
        return cls(pixels, _digest(given), pixel_count, beside, rows)


def _digest(tensors: Sequence[torch.Tensor]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().data)
        digest.update(repr(tuple(tensor.shape)).encode())
    return digest.digest()


@dataclass(frozen=True, slots=True)
class TokenLayout:
    """How the tokens of a prompt lie, where it is not as in a text.

    Attributes:
        positions: For rotary embeddings of several axes (Wang et al. 2024, "Qwen2-VL"), int64
            (axes, tokens).
        blocks: If tokens of a block, such as an image, attend to each other in both directions,
            int64 (tokens,): the number of a token's block, -1 outside of blocks.
    """

    positions: torch.Tensor | None = None
    blocks: torch.Tensor | None = None

    def next_position(self, tokens: int) -> int:
        """Position of the first token after a prompt of so many tokens."""
        return tokens if self.positions is None else int(self.positions.max()) + 1


PLAIN_LAYOUT = TokenLayout()


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt as the model takes it.

    Attributes:
        ids: int64 (tokens,), with one image token for each row of the images' features; with
            cross-attention, one for each image.
        images: In the order of their tokens.
        image_mask: For cross-attention: the images that each token attends to, bool (tokens,
            images).
        prefix_tokens: Tokens at the beginning that are the same in other prompts of the job.
        prefix_images: Images among those tokens.
        layout: How the tokens lie.
    """

    ids: torch.Tensor
    images: Sequence[ImageInput]
    image_mask: torch.Tensor | None = None
    prefix_tokens: int = 0
    prefix_images: int = 0
    layout: TokenLayout = PLAIN_LAYOUT
