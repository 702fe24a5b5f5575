"""From a request to an item that is ready for the device, on the CPU and in any thread.

    request ─▶ turns (prompts.py) ─▶ text ─▶ tensors and images (architecture.py)

Items are prepared one by one, so that a bad item raises only for itself.
"""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from PIL import Image, ImageOps

from db.vocabulary.errors import ItemRefused, PromptTooLong
from workers.decoding import seeded_sampling
from workers.decoding.prompt import ImageInput
from workers.families import ranking
from workers.families.architecture import Architecture, Inputs, Suffixes
from workers.families.base import Prepared
from workers.families.loaded import LoadedModel
from workers.families.processors import seen_at
from workers.families.prompts import PromptPart, Turn, build

#: Pixels of the longer side of an image at detail "low", as in OpenAI's API.
LOW_SIDE = 512


class Preparation:
    """Prepares items for a loaded model. Thread-safe."""

    def __init__(self, loaded: LoadedModel, architecture: Architecture) -> None:
        self._loaded, self._architecture = loaded, architecture
        self._count_controls_of = lru_cache(1024)(self._count_controls_without_text)
        self._processor_at = lru_cache(4)(partial(seen_at, loaded.processor))
        self._suffixes_of = lru_cache(64)(self._suffixes)

    def prepare(self, request: dict[str, Any], images: Sequence[Image.Image]) -> Prepared:
        """See Family.prepare."""
        loaded, architecture = self._loaded, self._architecture
        prompt = build(request, loaded.card.style, len(images))
        turns = [
            Turn(turn.role, tuple(self._spelled(part) for part in turn.parts))
            for turn in prompt.turns
        ]
        text = architecture.render(turns)
        ids = architecture.text_ids(text)
        if loaded.controls.count(ids) != self._count_controls_of(
            tuple(_bare(turn) for turn in turns)
        ):
            raise ItemRefused("the text contains a control token of this model")
        loaded.grammar(request)  # raises, and compiles it before the device needs it
        self._check_length(len(ids), 0)  # before images are processed, which makes it longer
        suffixes = self._label_suffixes(request, text)
        used = [images[part] for turn in turns for part in turn.parts if isinstance(part, int)]
        try:
            tensors, image_inputs = self._encode(request, text, used)
            layout = architecture.layout(tensors)
        except (ValueError, TypeError, ArithmeticError) as error:
            sizes = ", ".join(f"{image.width}x{image.height}" for image in used)
            raise ItemRefused(
                f"the model's processor cannot take the item (images: {sizes or 'none'}): {error}"
            ) from error
        tokens, options = len(tensors["input_ids"]), loaded.options(request)
        if suffixes:
            self._check_length(tokens, max(len(suffix) for suffix in suffixes.ids))
        else:
            self._check_length(tokens, self._least_tokens(request))
        example_images = len(request.get("examples", ())) if len(image_inputs) == len(used) else 0
        seed = None
        if options.get("do_sample"):
            seed = options.get("seed", seeded_sampling.new_seed())
        inputs = Inputs(
            tensors,
            image_inputs,
            example_images,
            text,
            prompt.template,
            seed,
            suffixes,
            layout,
        )
        return Prepared(request, tokens=tokens, inputs=inputs)

    def _encode(
        self, request: dict[str, Any], text: str, images: Sequence[Image.Image]
    ) -> tuple[dict[str, torch.Tensor], Sequence[ImageInput]]:
        detail = request.get("options", {}).get("image_detail", "auto")
        if detail == "high" and self._loaded.settings.image_splitting == "off":
            detail = "auto"  # more tokens than the operator allows
        if detail == "low":
            images = [_reduced(image) for image in images]
        return self._architecture.encode(text, images, self._processor_at(detail))

    def _label_suffixes(self, request: dict[str, Any], text: str) -> Suffixes | None:
        if request.get("method") != "rank":
            return None
        text = self._architecture.completed(text)
        ids = self._architecture.text_ids(text)
        labels = tuple(self._loaded.controls.neutralize(label) for label in request["labels"])
        return self._suffixes_of(self._tail(text, ids), labels)

    def _spelled(self, part: PromptPart) -> PromptPart:
        return part if isinstance(part, int) else self._loaded.controls.neutralize(part)

    def _tail(self, text: str, ids: list[int]) -> str:
        """Return the end of a prompt, as much as the tokens after it can depend on."""
        tail = text[self._loaded.controls.last(text) :]
        own = self._ids_within(tail)
        return tail if ids[len(ids) - len(own) :] == own else text

    def _ids_within(self, text: str) -> list[int]:
        ids: list[int] = self._loaded.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def _suffixes(self, tail: str, labels: tuple[str, ...]) -> Suffixes:
        found = ranking.suffixes(self._ids_within, tail, labels)
        if any(self._loaded.controls.count(ids) for ids in found.ids):
            raise ItemRefused("a label contains a control token of this model")
        return found

    def _count_controls_without_text(self, turns: tuple[Turn, ...]) -> Counter[int]:
        rendered = self._architecture.render(turns)
        return self._loaded.controls.count(self._architecture.text_ids(rendered))

    def _least_tokens(self, request: dict[str, Any]) -> int:
        """Return the tokens that must be left for an answer: as many as are asked for, or usual."""
        own = request.get("options", {}).get("max_new_tokens")
        return int(own or self._loaded.card.defaults["max_new_tokens"])

    def _check_length(self, tokens: int, beside: int) -> None:
        context = self._loaded.context
        if context and tokens > context - beside:
            raise PromptTooLong(
                f"the prompt has {tokens} tokens; this model takes {context - beside} besides"
                f" an answer of {beside}"
            )


def _reduced(image: Image.Image) -> Image.Image:
    """Return an image whose longer side is at most `LOW_SIDE` pixels."""
    if max(image.size) <= LOW_SIDE:
        return image
    return ImageOps.contain(image, (LOW_SIDE, LOW_SIDE), Image.Resampling.LANCZOS)


def _bare(turn: Turn) -> Turn:
    """Return a turn of the same shape without the user's text."""
    return Turn(turn.role, tuple(0 if isinstance(part, int) else "x" for part in turn.parts))
