"""Idefics2, and every checkpoint fine-tuned from it; the demonstration model is one.

Images keep their shape and become patches. In a batch for `generate` they are padded at the bottom
and right, and a mask hides the padding from the model.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from PIL import Image

from workers.decoding.attention import PackedSequences, override_attention
from workers.decoding.embedded_images import EmbeddedImagesDecoder
from workers.decoding.prompt import ImageInput
from workers.decoding.text_decoder import TextDecoder
from workers.families import family
from workers.families.architecture import Architecture, Inputs
from workers.families.family import TransformersFamily
from workers.families.pixels import batches_by_patches, encode_packed
from workers.settings import EngineSettings


class Idefics2(Architecture):
    """Adapter of Idefics2."""

    name = "idefics2"
    languages = ("English",)

    def encode(
        self, text: str, images: Sequence[Image.Image], processor: Any
    ) -> tuple[dict[str, torch.Tensor], Sequence[ImageInput]]:
        """See Architecture.encode. Images have any size; a split image gives all its parts."""
        encoded = processor(
            text=[text],
            images=[list(images)] if images else None,
            add_special_tokens=not self.has_bos(text),
            return_tensors="pt",
        )
        tensors = {name: encoded[name][0] for name in ("input_ids", "attention_mask")}
        if not images:
            return tensors, []
        sides = encoded["pixel_attention_mask"][0]
        sizes = zip(sides[:, :, 0].sum(1).tolist(), sides[:, 0].sum(1).tolist(), strict=True)
        return tensors, [
            ImageInput.of(pixels[:, :height, :width])
            for pixels, (height, width) in zip(encoded["pixel_values"][0], sizes, strict=True)
        ]

    def collate_images(self, items: Sequence[Inputs]) -> dict[str, torch.Tensor]:
        """Pad to the most images of an item and to the largest sides, with masked zeros."""
        shapes = [image.pixels.shape for item in items for image in item.images]
        if not shapes:
            return {}
        assert self.pixels is not None
        most = max(len(item.images) for item in items)
        height, width = (max(shape[axis] for shape in shapes) for axis in (1, 2))
        where = {"device": self.device}
        shape = (len(items), most, 3, height, width)
        pixels = torch.zeros(shape, dtype=self.model.dtype, **where)
        mask = torch.zeros((len(items), most, height, width), dtype=torch.bool, **where)
        for row, item in enumerate(items):
            for number, image in enumerate(item.images):
                _, rows, columns = image.pixels.shape
                pixels[row, number, :, :rows, :columns] = _not_all_zero(
                    self.pixels.normalize(image.pixels.to(**where), self.model.dtype)
                )
                mask[row, number, :rows, :columns] = True
        return {"pixel_values": pixels, "pixel_attention_mask": mask}

    def image_size(self, width: int, height: int) -> tuple[int, int]:
        """See Architecture.image_size."""
        processor = self.processor.image_processor
        if processor.do_image_splitting:  # into parts that are each as large
            return width, height
        scale = min(1.0, processor.size.longest_edge / max(width, height))
        least = processor.size.shortest_edge or 1
        return max(round(width * scale), least), max(round(height * scale), least)

    def text_decoder(self) -> TextDecoder:
        """See Architecture.text_decoder."""
        perceiver = self.model.config.perceiver_config
        return EmbeddedImagesDecoder(
            self.model, self.model.config.image_token_id, perceiver.resampler_n_latents
        )

    def encode_images(
        self, images: Sequence[ImageInput], patches_at_once: int
    ) -> list[torch.Tensor]:
        """See Architecture.encode_images."""
        assert self.pixels is not None
        vision, encoded = self.model.model.vision_model, [torch.empty(0)] * len(images)
        for numbers in batches_by_patches(images, vision.config.patch_size, patches_at_once):
            some = [images[number] for number in numbers]
            hidden, lengths = encode_packed(vision, some, self.pixels, self.device)
            for number, features in zip(numbers, self.connect(hidden, lengths), strict=True):
                encoded[number] = features
        return encoded

    def connect(self, hidden: torch.Tensor, lengths: Sequence[int]) -> Sequence[torch.Tensor]:
        """Run the connector: hidden states of patches, (patches, width), to features by image.

        The resampler's latents attend to the patches of their image and to themselves. Its layers
        put all patches before all latents, so keys are sorted by image first.
        """
        connector = self.model.model.connector
        resampler, count = connector.perceiver_resampler, len(lengths)
        own = resampler.n_latents
        latents = list(range(sum(lengths), sum(lengths) + own * count))
        order: list[int] = []
        for number, (start, length) in enumerate(zip(accumulate([0, *lengths]), lengths)):  # noqa: B905
            order += range(start, start + length)
            order += latents[number * own : (number + 1) * own]
        by_image = torch.tensor(order, device=hidden.device)
        packed = PackedSequences([own] * count, [length + own for length in lengths])

        def attend(
            _: Any,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            scale: float | None,
            window: int | None,
        ) -> torch.Tensor:
            return packed.attend(query, key[:, :, by_image], value[:, :, by_image], scale)

        context = connector.modality_projection(hidden)[None]
        resampled = resampler.latents.repeat(count, 1)[None]
        with override_attention(attend):
            for layer in resampler.layers:
                resampled = layer(resampled, context, attention_mask=None)
        features: Sequence[torch.Tensor] = resampler.norm(resampled)[0].split(own)
        return features


def _not_all_zero(pixels: torch.Tensor) -> torch.Tensor:
    """Change one pixel of an all-zero image: the model would drop it as padding."""
    if not pixels.any():
        pixels[:, 0, 0] = torch.finfo(torch.float16).tiny
    return pixels


def load(settings: EngineSettings) -> TransformersFamily:
    """Load the checkpoint."""
    return family.load(Idefics2, settings)
