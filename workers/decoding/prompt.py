"""What a slot is given: the tokens of a prompt, and its pictures as bytes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture, or a tile of one, sized as the model wants it.

    Attributes:
        pixels: uint8 (3, height, width).
        key: Equal for the same pixels.
    """

    pixels: torch.Tensor
    key: bytes

    @classmethod
    def of(cls, pixels: torch.Tensor) -> "Picture":
        """Name a picture by what is on it."""
        whole = pixels.contiguous()
        digest = hashlib.blake2b(whole.numpy().data, digest_size=16)
        digest.update(repr(tuple(whole.shape)).encode())
        return cls(whole, digest.digest())


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the model reads it.

    Attributes:
        ids: int64 (tokens,), with as many image tokens as the model's features have.
        pictures: In the order of their tokens.
        looks: For a model that looks at pictures from outside its text: which of them each token
            may look at, bool (tokens, pictures).
        shared: So many tokens at the beginning are the same in other prompts of the job.
        shown_shared: So many pictures are in those tokens.
    """

    ids: torch.Tensor
    pictures: Sequence[Picture]
    looks: torch.Tensor | None = None
    shared: int = 0
    shown_shared: int = 0
