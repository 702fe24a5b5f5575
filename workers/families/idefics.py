"""IDEFICS, the first: 9b and 80b, base and instruct; pictures enter by cross-attention.

Its processor fetches every text that looks like a URL and guesses at the ends of turns, so the
text is put together here, piece by piece as the processor does it; a test holds both together.
Only a picture's place is in the text: what a token may look at is in `image_attention_mask`.
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

from workers.decoding.crossed import Crossed
from workers.decoding.generation import END_OF_UTTERANCE
from workers.decoding.prompt import Picture
from workers.decoding.readers import Reader
from workers.families.pinned import Inputs, Pinned
from workers.families.prompts import Style, Turn
from workers.settings import EngineSettings

FAKE, IMAGE = "<fake_token_around_image>", "<image>"
#: Each slot has room for so many pictures' keys and values; a prompt with more goes to `generate`.
MOST_PICTURES = 8
#: The vision part takes so many in one pass.
PICTURES_AT_ONCE = 64


class Idefics(Pinned):
    """A pinned IDEFICS."""

    name = "idefics"
    languages = ("English",)

    def render(self, turns: Sequence[Turn]) -> str:
        """The text as the guide writes it, `<s>` included."""
        text, after_image = str(self.tokenizer.bos_token), False
        for part in self._pieces(turns):
            if isinstance(part, int):
                text += f"{IMAGE}{FAKE}" if after_image else f"{FAKE}{IMAGE}{FAKE}"
            else:
                text += part.strip(" ")
            after_image = isinstance(part, int)
        return text

    def encode(
        self, text: str, images: Sequence[Image.Image]
    ) -> tuple[dict[str, torch.Tensor], Sequence[Picture]]:
        """Pictures: all of one size. image_attention_mask: (tokens, images)."""
        ids = torch.tensor(self.text_ids(text))
        tensors = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if not images:
            return tensors, []
        sized = self._processor.image_processor(list(images), return_tensors="pt")
        nth, _ = image_attention_mask_for_packed_input_ids(ids[None], self.tokenizer, "pt")
        tensors["image_attention_mask"] = incremental_to_binary_attention_mask(
            nth, "pt", num_classes=len(images)
        )[0]
        return tensors, [Picture.of(pixels) for pixels in sized]

    def collate_images(self, items: Sequence[Inputs]) -> dict[str, torch.Tensor]:
        """Pad to the most images; a slot without image is zeros that no token looks at."""
        longest = max(len(item.tensors["input_ids"]) for item in items)
        most = max(len(item.pictures) for item in items) or 1
        shape = (len(items), most, *self._processor.default_image_dims)
        pixels = torch.zeros(shape, dtype=self.model.dtype, device=self.device)
        mask = torch.zeros((len(items), longest, most), dtype=torch.long)
        for row, item in enumerate(items):
            if item.pictures:
                shown, tokens = len(item.pictures), len(item.tensors["input_ids"])
                pixels[row, :shown] = self._numbers(item.pictures)
                mask[row, longest - tokens :, :shown] = self._looks(item)
        return {"pixel_values": pixels, "image_attention_mask": mask}

    def sized(self, width: int, height: int) -> tuple[int, int]:
        """See Pinned.sized: all pictures become squares."""
        _, rows, columns = self._processor.default_image_dims
        return int(columns), int(rows)

    def reader(self) -> Reader:
        """See Pinned.reader."""
        one_table(self.model)
        return Crossed(self.model, MOST_PICTURES)

    def see(self, pictures: Sequence[Picture]) -> list[torch.Tensor]:
        """See Pinned.see."""
        seen: list[torch.Tensor] = []
        at_once = 1 if self.is_invariant else PICTURES_AT_ONCE
        for start in range(0, len(pictures), at_once):
            some = pictures[start : start + at_once]
            hidden = self.model.model.vision_model(self._numbers(some)).last_hidden_state
            if self.model.config.use_resampler:
                hidden = self.model.model.perceiver_resampler(hidden)
            seen += hidden.unbind(0)
        return seen

    def _numbers(self, pictures: Sequence[Picture]) -> torch.Tensor:
        assert self.pixels is not None
        stacked = torch.stack([picture.pixels for picture in pictures])
        return self.pixels.numbers(stacked.to(self.device, non_blocking=True), self.model.dtype)

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
        return "chat" if END_OF_UTTERANCE in self.tokenizer.get_vocab() else "plain"


def one_table(model: Any) -> None:
    """Put the two tables of IDEFICS's embeddings, old and added tokens, into one.

    The library finds out which table a token is in by asking the device, and waits for it.
    """
    inner = model.model
    if isinstance(inner.embed_tokens, IdeficsDecoupledEmbedding):
        added = getattr(inner.embed_tokens, "additional_embedding", None)
        tables = [inner.embed_tokens.weight, *([added.weight] if added else [])]
        inner.embed_tokens = torch.nn.Embedding.from_pretrained(torch.cat(tables).detach())


def load(settings: EngineSettings) -> Idefics:
    """Load and pin the checkpoint."""
    return Idefics(settings)
