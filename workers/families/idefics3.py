"""Idefics3 and SmolVLM: large pictures are cut into tiles, each with its place in the text."""

from pathlib import Path
from typing import Any

from transformers import Idefics3Processor

from workers.families import loading
from workers.families.idefics2 import Idefics2
from workers.settings import EngineSettings


class Idefics3(Idefics2):
    """A pinned Idefics3; tiles are laid side by side as the pictures of Idefics2 are."""

    name = "idefics3"

    def load_processor(self, where: Path, settings: EngineSettings) -> Any:
        """The processor; SmolVLM's own would want libraries for videos that no item has."""
        processor = Idefics3Processor.from_pretrained(where, **loading.LOCAL, backend="pil")
        if settings.image_splitting:
            processor.image_processor.do_image_splitting = settings.image_splitting == "on"
        return processor


def load(settings: EngineSettings) -> Idefics3:
    """Load and pin the checkpoint."""
    return Idefics3(settings)
