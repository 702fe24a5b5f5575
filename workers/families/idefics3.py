"""Idefics3 and SmolVLM: large pictures are cut into tiles, each with its place in the text."""

from transformers import Idefics3Processor

from workers.families.idefics2 import Idefics2
from workers.settings import EngineSettings


class Idefics3(Idefics2):
    """A pinned Idefics3; tiles are laid side by side as the pictures of Idefics2 are."""

    name = "idefics3"
    languages = ("English",)
    #: SmolVLM's own would want libraries for videos that no item has.
    processor_class = Idefics3Processor


def load(settings: EngineSettings) -> Idefics3:
    """Load and pin the checkpoint."""
    return Idefics3(settings)
