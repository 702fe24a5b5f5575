"""IDEFICS, the first: 9b and 80b, base and instruct; pictures enter by cross-attention.

Its processor fetches every text that looks like a URL and guesses at the ends of turns, so the
text is put together here, piece by piece as the processor does it; a test holds both together.
Only a picture's place is in the text: what a token may look at is in `image_attention_mask`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers.models.idefics.processing_idefics import (
    image_attention_mask_for_packed_input_ids,
    incremental_to_binary_attention_mask,
)

from workers.families.generation import END_OF_UTTERANCE
from workers.families.pinned import Inputs, Pinned
from workers.families.prompts import Style, Turn
from workers.settings import EngineSettings

FAKE, IMAGE = "<fake_token_around_image>", "<image>"


class Idefics(Pinned):
    """A pinned IDEFICS."""

    name = "idefics"
    languages = ("English",)

    def render(self, turns: Sequence[Turn]) -> str:
        """The text as the guide writes it, `<s>` included."""
        text, after_image = str(self._tokenizer.bos_token), False
        for part in self._pieces(turns):
            if isinstance(part, int):
                text += f"{IMAGE}{FAKE}" if after_image else f"{FAKE}{IMAGE}{FAKE}"
            else:
                text += part.strip(" ")
            after_image = isinstance(part, int)
        return text

    def encode(self, text: str, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """pixel_values: float (images, 3, side, side); the mask: (tokens, images)."""
        ids = torch.tensor(self.text_ids(text))
        tensors = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if not images:
            return tensors
        tensors["pixel_values"] = self._processor.image_processor(list(images), return_tensors="pt")
        nth, _ = image_attention_mask_for_packed_input_ids(ids[None], self._tokenizer, "pt")
        tensors["image_attention_mask"] = incremental_to_binary_attention_mask(
            nth, "pt", num_classes=len(images)
        )[0]
        return tensors

    def collate_images(self, items: Sequence[Inputs]) -> dict[str, torch.Tensor]:
        """Pad to the most images; a slot without image is zeros that no token looks at."""
        longest = max(len(item.tensors["input_ids"]) for item in items)
        most = max(len(item.tensors.get("pixel_values", ())) for item in items) or 1
        pixels = torch.zeros((len(items), most, *self._processor.default_image_dims))
        mask = torch.zeros((len(items), longest, most), dtype=torch.long)
        for row, item in enumerate(items):
            if "pixel_values" in item.tensors:
                shown, tokens = len(item.tensors["pixel_values"]), len(item.tensors["input_ids"])
                pixels[row, :shown] = item.tensors["pixel_values"]
                mask[row, longest - tokens :, :shown] = self._looks(item)
        return {"pixel_values": pixels, "image_attention_mask": mask}

    def go_on(self, outputs: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The pictures as they were seen, and that all that follows may look at them."""
        resampled = self.model.config.use_resampler
        return {
            "perceiver_embeddings" if resampled else "image_encoder_embeddings": (
                outputs.image_hidden_states
            ),
            "image_attention_mask": tensors["image_attention_mask"][:, -1:],
        }

    def _looks(self, item: Inputs) -> torch.Tensor:
        """The item's mask for as many tokens as it has, more or fewer than its prompt."""
        mask, tokens = item.tensors["image_attention_mask"], len(item.tensors["input_ids"])
        more = mask[-1:].expand(max(tokens - len(mask), 0), -1)
        return torch.cat([mask[:tokens], more])

    def _pieces(self, turns: Sequence[Turn]) -> list[str | int]:
        if self.card.style == "plain":
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

    def _style(self, settings: EngineSettings) -> Style:
        if settings.prompt_style != "auto":
            return settings.prompt_style
        # Only the instruct models were given a token that ends a turn.
        return "chat" if END_OF_UTTERANCE in self._tokenizer.get_vocab() else "plain"


def load(settings: EngineSettings) -> Idefics:
    """Load and pin the checkpoint."""
    return Idefics(settings)
