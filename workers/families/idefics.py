"""IDEFICS 9b and 80b, base and instruct: images enter the text model by cross-attention.

The processor of transformers fetches every text that looks like a URL and guesses where turns end.
So the text is rendered here, piece by piece as the processor does it; a test compares the two. The
text holds only an image's place: `image_attention_mask` says which images a token attends to.
"""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers.models.idefics.modeling_idefics import IdeficsDecoupledEmbedding
from transformers.models.idefics.processing_idefics import (
    image_attention_mask_for_packed_input_ids,
    incremental_to_binary_attention_mask,
)

from db.vocabulary.kinds import Style
from workers.decoding.cross_attention import CrossAttentionDecoder
from workers.decoding.generation import END_OF_UTTERANCE
from workers.decoding.prompt import ImageInput
from workers.decoding.text_decoder import TextDecoder
from workers.families import family
from workers.families.architecture import Architecture, Inputs
from workers.families.family import TransformersFamily
from workers.families.prompts import Turn
from workers.settings import EngineSettings

FAKE, IMAGE = "<fake_token_around_image>", "<image>"
#: A slot has room for the keys and values of so many images; `generate` answers longer prompts.
SLOT_IMAGES = 8
#: Images in one pass of the vision encoder.
IMAGES_AT_ONCE = 64


class Idefics(Architecture):
    """Adapter of IDEFICS."""

    name = "idefics"
    languages = ("English",)

    def render(self, turns: Sequence[Turn]) -> str:
        """Render a prompt as IDEFICS was trained on it, `<s>` included."""
        text, after_image = str(self.tokenizer.bos_token), False
        for part in self._pieces(turns):
            if isinstance(part, int):
                text += f"{IMAGE}{FAKE}" if after_image else f"{FAKE}{IMAGE}{FAKE}"
            else:
                text += part.strip(" ")
            after_image = isinstance(part, int)
        return text

    def encode(
        self, text: str, images: Sequence[Image.Image], processor: Any
    ) -> tuple[dict[str, torch.Tensor], Sequence[ImageInput]]:
        """See Architecture.encode. Images have one size; image_attention_mask: (tokens, images)."""
        ids = torch.tensor(self.text_ids(text))
        tensors = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if not images:
            return tensors, []
        sized = processor.image_processor(list(images), return_tensors="pt")
        nth, _ = image_attention_mask_for_packed_input_ids(ids[None], self.tokenizer, "pt")
        tensors["image_attention_mask"] = incremental_to_binary_attention_mask(
            nth, "pt", num_classes=len(images)
        )[0]
        return tensors, [ImageInput.of(pixels) for pixels in sized]

    def collate_images(self, items: Sequence[Inputs]) -> dict[str, torch.Tensor]:
        """Pad to the most images of an item, with zeros that no token attends to."""
        longest = max(len(item.tensors["input_ids"]) for item in items)
        most = max(len(item.images) for item in items) or 1
        shape = (len(items), most, *self.processor.default_image_dims)
        pixels = torch.zeros(shape, dtype=self.model.dtype, device=self.device)
        mask = torch.zeros((len(items), longest, most), dtype=torch.long)
        for row, item in enumerate(items):
            if item.images:
                count, tokens = len(item.images), len(item.tensors["input_ids"])
                pixels[row, :count] = self._pixel_values(item.images)
                mask[row, longest - tokens :, :count] = self._image_mask(item)
        return {"pixel_values": pixels, "image_attention_mask": mask}

    def image_size(self, width: int, height: int) -> tuple[int, int]:
        """See Architecture.image_size: all images become squares."""
        _, rows, columns = self.processor.default_image_dims
        return int(columns), int(rows)

    def text_decoder(self) -> TextDecoder:
        """See Architecture.text_decoder."""
        merge_embeddings(self.model)
        return CrossAttentionDecoder(self.model, SLOT_IMAGES)

    def encode_images(
        self, images: Sequence[ImageInput], patches_at_once: int
    ) -> list[torch.Tensor]:
        """See Architecture.encode_images."""
        encoded: list[torch.Tensor] = []
        _, rows, columns = self.processor.default_image_dims
        patches = max(1, rows * columns // self.loaded.patch_pixels)
        at_once = max(1, min(patches_at_once // patches, IMAGES_AT_ONCE))
        for start in range(0, len(images), at_once):
            some = images[start : start + at_once]
            hidden = self.model.model.vision_model(self._pixel_values(some)).last_hidden_state
            if self.model.config.use_resampler:
                hidden = self.model.model.perceiver_resampler(hidden)
            encoded += hidden.unbind(0)
        return encoded

    def _pixel_values(self, images: Sequence[ImageInput]) -> torch.Tensor:
        assert self.pixels is not None
        stacked = torch.stack([image.pixels for image in images])
        return self.pixels.normalize(stacked.to(self.device, non_blocking=True), self.model.dtype)

    def continuation_inputs(
        self, outputs: Any, tensors: dict[str, torch.Tensor], rows: int, tokens: int
    ) -> dict[str, torch.Tensor]:
        """See Architecture.continuation_inputs: encoded images, and a mask that shows them all."""
        resampled = self.model.config.use_resampler
        encoded, mask = outputs.image_hidden_states, tensors["image_attention_mask"][:, -1:]
        return {
            "perceiver_embeddings" if resampled else "image_encoder_embeddings": (
                encoded.repeat_interleave(rows, 0)
            ),
            "image_attention_mask": mask.repeat_interleave(rows, 0),
        }

    def _image_mask(self, item: Inputs) -> torch.Tensor:
        """Cut or extend an item's image mask to the number of its tokens."""
        mask, tokens = item.tensors["image_attention_mask"], len(item.tensors["input_ids"])
        more = mask[-1:].expand(max(tokens - len(mask), 0), -1)
        return torch.cat([mask[:tokens], more])

    def _pieces(self, turns: Sequence[Turn]) -> list[str | int]:
        if self.loaded.card.style == "plain":
            return [part for turn in turns for part in turn.parts]
        pieces: list[str | int] = []
        for number, turn in enumerate(turns):
            begin = "\n" if number else ""
            pieces.append(f"{begin}{turn.role.capitalize()}:")
            for part in turn.parts:
                if isinstance(part, str) and isinstance(pieces[-1], str):
                    pieces[-1] += f" {part.strip(' ')}"
                else:
                    pieces.append(part)
            if isinstance(pieces[-1], str):
                pieces[-1] = pieces[-1].rstrip(" ") + END_OF_UTTERANCE
            else:
                pieces.append(END_OF_UTTERANCE)
        return [*pieces, "\nAssistant:"]

    @classmethod
    def style(cls, processor: Any, settings: EngineSettings) -> Style:
        """See Architecture.style."""
        if settings.prompt_style != "auto":
            return settings.prompt_style
        # Only the instruct models have a token that ends a turn.
        return "chat" if END_OF_UTTERANCE in processor.tokenizer.get_vocab() else "plain"


def merge_embeddings(model: Any) -> None:
    """Merge IDEFICS's two embedding tables, of original and of added tokens, into one.

    transformers reads from the device which table each token is in, which waits for the device.
    """
    inner = model.model
    if isinstance(inner.embed_tokens, IdeficsDecoupledEmbedding):
        added = getattr(inner.embed_tokens, "additional_embedding", None)
        tables = [inner.embed_tokens.weight, *([added.weight] if added else [])]
        inner.embed_tokens = torch.nn.Embedding.from_pretrained(torch.cat(tables).detach())


def load(settings: EngineSettings) -> TransformersFamily:
    """Load the checkpoint."""
    return family.load(Idefics, settings)
