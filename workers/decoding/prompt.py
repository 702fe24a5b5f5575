"""The input of a sequence slot: a prompt's token ids, and its images as bytes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class ImageInput:
    """An image, or a tile of one, in the size that the vision encoder takes.

    Attributes:
        pixels: uint8 (3, height, width).
        key: Digest of the pixels; equal for equal pixels.
    """

    pixels: torch.Tensor
    key: bytes

    @classmethod
    def of(cls, pixels: torch.Tensor) -> "ImageInput":
        """Digest pixels and wrap them."""
        whole = pixels.contiguous()
        digest = hashlib.blake2b(whole.numpy().data, digest_size=16)
        digest.update(repr(tuple(whole.shape)).encode())
        return cls(whole, digest.digest())


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
    """

    ids: torch.Tensor
    images: Sequence[ImageInput]
    image_mask: torch.Tensor | None = None
    prefix_tokens: int = 0
    prefix_images: int = 0
