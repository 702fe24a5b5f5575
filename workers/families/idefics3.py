"""Idefics3 and SmolVLM: large pictures are cut into tiles, each with its place in the text."""

from collections.abc import Sequence

import torch
from transformers import Idefics3Processor

from workers.decoding.merged import Merged
from workers.decoding.readers import Reader
from workers.families.idefics2 import Idefics2
from workers.settings import EngineSettings


class Idefics3(Idefics2):
    """A pinned Idefics3; tiles are laid side by side as the pictures of Idefics2 are."""

    name = "idefics3"
    languages = ("English",)
    #: SmolVLM's own would want libraries for videos that no item has.
    processor_class = Idefics3Processor

    def reader(self) -> Reader:
        """See Pinned.reader."""
        return Merged(self.model, self.model.config.image_token_id, self.model.model.image_seq_len)

    def connect(self, hidden: torch.Tensor, lengths: Sequence[int]) -> Sequence[torch.Tensor]:
        """See Idefics2.connect; here patches are shuffled into fewer, square by square."""
        connector = self.model.model.connector
        return [connector(own[None])[0] for own in hidden.split(list(lengths))]


def load(settings: EngineSettings) -> Idefics3:
    """Load and pin the checkpoint."""
    return Idefics3(settings)
