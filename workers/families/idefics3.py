"""Idefics3 and SmolVLM: large images are cut into tiles, each with its place in the text."""

from collections.abc import Sequence

import torch
from transformers import Idefics3Processor

from workers.decoding.embedded_images import EmbeddedImagesDecoder
from workers.decoding.text_decoder import TextDecoder
from workers.families import family
from workers.families.family import TransformersFamily
from workers.families.idefics2 import Idefics2
from workers.settings import EngineSettings


class Idefics3(Idefics2):
    """Adapter of Idefics3; its tiles are encoded as the images of Idefics2 are."""

    name = "idefics3"
    languages = ("English",)
    #: SmolVLM's own processor needs libraries for videos, which are not served.
    processor_class = Idefics3Processor

    def text_decoder(self) -> TextDecoder:
        """See Architecture.text_decoder."""
        return EmbeddedImagesDecoder(
            self.model, self.model.config.image_token_id, self.model.model.image_seq_len
        )

    def connect(self, hidden: torch.Tensor, lengths: Sequence[int]) -> Sequence[torch.Tensor]:
        """See Idefics2.connect; this connector is a pixel shuffle."""
        connector = self.model.model.connector
        return [connector(own[None])[0] for own in hidden.split(list(lengths))]


def load(settings: EngineSettings) -> TransformersFamily:
    """Load the checkpoint."""
    return family.load(Idefics3, settings)
