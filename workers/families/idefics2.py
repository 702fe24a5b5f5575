"""Idefics2, and every checkpoint fine-tuned from it; the demonstration model is one.

Pictures keep their shape and become patches; in a batch they are padded at the bottom and right,
with masks that make the padding invisible to the model.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from PIL import Image

from workers.decoding.attention import Rows, attending
from workers.decoding.merged import Merged
from workers.decoding.prompt import Picture
from workers.decoding.readers import Reader
from workers.families.pinned import Inputs, Pinned
from workers.families.pixels import encode_packed, packs
from workers.settings import EngineSettings


class Idefics2(Pinned):
    """A pinned Idefics2."""

    name = "idefics2"
    languages = ("English",)

    def encode(
        self, text: str, images: Sequence[Image.Image]
    ) -> tuple[dict[str, torch.Tensor], Sequence[Picture]]:
        """Pictures: of any sizes; of those that are cut into parts, all parts."""
        encoded = self._processor(
            text=[text],
            images=[list(images)] if images else None,
            add_special_tokens=not self.begins_itself(text),
            return_tensors="pt",
        )
        tensors = {name: encoded[name][0] for name in ("input_ids", "attention_mask")}
        if not images:
            return tensors, []
        sides = encoded["pixel_attention_mask"][0]
        sizes = zip(sides[:, :, 0].sum(1).tolist(), sides[:, 0].sum(1).tolist(), strict=True)
        return tensors, [
            Picture.of(pixels[:, :height, :width])
            for pixels, (height, width) in zip(encoded["pixel_values"][0], sizes, strict=True)
        ]

    def collate_images(self, items: Sequence[Inputs]) -> dict[str, torch.Tensor]:
        """Pad to the most images and the largest sides; a slot without image is zeros, unseen."""
        shapes = [picture.pixels.shape for item in items for picture in item.pictures]
        if not shapes:
            return {}
        assert self.pixels is not None
        most = max(len(item.pictures) for item in items)
        height, width = (max(shape[axis] for shape in shapes) for axis in (1, 2))
        where = {"device": self.device}
        shape = (len(items), most, 3, height, width)
        pixels = torch.zeros(shape, dtype=self.model.dtype, **where)
        mask = torch.zeros((len(items), most, height, width), dtype=torch.bool, **where)
        for row, item in enumerate(items):
            for number, picture in enumerate(item.pictures):
                _, rows, columns = picture.pixels.shape
                pixels[row, number, :, :rows, :columns] = _seen(
                    self.pixels.numbers(picture.pixels.to(**where), self.model.dtype)
                )
                mask[row, number, :rows, :columns] = True
        return {"pixel_values": pixels, "pixel_attention_mask": mask}

    def sized(self, width: int, height: int) -> tuple[int, int]:
        """See Pinned.sized."""
        processor = self._processor.image_processor
        if processor.do_image_splitting:  # into parts that are each as large
            return width, height
        scale = min(1.0, processor.size.longest_edge / max(width, height))
        least = processor.size.shortest_edge or 1
        return max(round(width * scale), least), max(round(height * scale), least)

    def reader(self) -> Reader:
        """See Pinned.reader."""
        perceiver = self.model.config.perceiver_config
        return Merged(self.model, self.model.config.image_token_id, perceiver.resampler_n_latents)

    def see(self, pictures: Sequence[Picture]) -> list[torch.Tensor]:
        """See Pinned.see."""
        assert self.pixels is not None
        vision, seen = self.model.model.vision_model, [torch.empty(0)] * len(pictures)
        for numbers in packs(pictures, vision.config.patch_size, self.patches_at_once):
            some = [pictures[number] for number in numbers]
            hidden, lengths = encode_packed(vision, some, self.pixels, self.device)
            for number, features in zip(numbers, self.connect(hidden, lengths), strict=True):
                seen[number] = features
        return seen

    def connect(self, hidden: torch.Tensor, lengths: Sequence[int]) -> Sequence[torch.Tensor]:
        """From what the vision part says of patches, (patches, width), to features by picture.

        The resampler's few latents look at the patches of their picture, and at themselves; it
        puts all patches before all latents, so keys are brought into order first.
        """
        connector = self.model.model.connector
        resampler, count = connector.perceiver_resampler, len(lengths)
        own = resampler.n_latents
        latents = list(range(sum(lengths), sum(lengths) + own * count))
        order: list[int] = []
        for number, (start, length) in enumerate(zip(accumulate([0, *lengths]), lengths)):  # noqa: B905
            order += range(start, start + length)
            order += latents[number * own : (number + 1) * own]
        by_picture = torch.tensor(order, device=hidden.device)
        rows = Rows([own] * count, [length + own for length in lengths])

        def attend(
            _: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None
        ) -> torch.Tensor:
            return rows.attend(query, key[:, :, by_picture], value[:, :, by_picture], scale)

        context = connector.modality_projection(hidden)[None]
        resampled = resampler.latents.repeat(count, 1)[None]
        with attending(attend):
            for layer in resampler.layers:
                resampled = layer(resampled, context, attention_mask=None)
        features: Sequence[torch.Tensor] = resampler.norm(resampled)[0].split(own)
        return features


def _seen(pixels: torch.Tensor) -> torch.Tensor:
    """The model drops a picture that is zero everywhere, as a black one is unless normalised."""
    if not pixels.any():
        pixels[:, 0, 0] = torch.finfo(torch.float16).tiny
    return pixels


def load(settings: EngineSettings) -> Idefics2:
    """Load and pin the checkpoint."""
    return Idefics2(settings)
