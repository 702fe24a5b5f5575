"""Idefics2, and every checkpoint fine-tuned from it; the demonstration model is one.

Pictures keep their shape and become patches; in a batch they are padded at the bottom and right,
with masks that make the padding invisible to the model.
"""

from collections.abc import Sequence

import torch
from PIL import Image

from workers.families.pinned import Inputs, Pinned
from workers.settings import EngineSettings


class Idefics2(Pinned):
    """A pinned Idefics2."""

    name = "idefics2"
    languages = ("English",)

    def encode(self, text: str, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """pixel_values: float (images, 3, height, width); pixel_attention_mask without the 3."""
        encoded = self._processor(
            text=[text],
            images=[list(images)] if images else None,
            add_special_tokens=not self.begins_itself(text),
            return_tensors="pt",
        )
        tensors = {name: encoded[name][0] for name in ("input_ids", "attention_mask")}
        if images:
            tensors["pixel_values"] = _seen(encoded["pixel_values"][0])
            tensors["pixel_attention_mask"] = encoded["pixel_attention_mask"][0].bool()
        return tensors

    def collate_images(self, items: Sequence[Inputs]) -> dict[str, torch.Tensor]:
        """Pad to the most images and the largest sides; a slot without image is zeros, unseen."""
        shown = [
            item.tensors["pixel_values"].shape for item in items if "pixel_values" in item.tensors
        ]
        if not shown:
            return {}
        most, height, width = (max(shape[axis] for shape in shown) for axis in (0, 2, 3))
        pixels = torch.zeros((len(items), most, 3, height, width))
        mask = torch.zeros((len(items), most, height, width), dtype=torch.bool)
        for row, item in enumerate(items):
            if "pixel_values" not in item.tensors:
                continue
            images, _, rows, columns = item.tensors["pixel_values"].shape
            pixels[row, :images, :, :rows, :columns] = item.tensors["pixel_values"]
            mask[row, :images, :rows, :columns] = item.tensors["pixel_attention_mask"]
        return {"pixel_values": pixels, "pixel_attention_mask": mask}


def _seen(pixels: torch.Tensor) -> torch.Tensor:
    """The model drops a picture that is zero everywhere, as a black one is unless normalised."""
    empty = (pixels == 0).flatten(1).all(1)
    pixels[empty, :, 0, 0] = torch.finfo(torch.float16).tiny
    return pixels


def load(settings: EngineSettings) -> Idefics2:
    """Load and pin the checkpoint."""
    return Idefics2(settings)
