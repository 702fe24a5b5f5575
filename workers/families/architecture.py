"""The adapter of a model architecture: what differs from one architecture to the next.

encode          one item's text and images ─▶ tensors, on the CPU
collate         tensors of several items   ─▶ a batch on the device
text_decoder    prefill and decode steps for continuous batching, if it is supported
encode_images   the vision encoder for continuous batching

Everything else, from a request to an answer, is the same for all of them: see family.py.
Texts are padded on the left: padded on the right, answers would depend on neighbours.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jinja2
import torch
from PIL import Image
from transformers import AutoProcessor

from db.vocabulary.errors import ItemRefused
from db.vocabulary.kinds import Style
from workers.decoding.prompt import PLAIN_LAYOUT, ImageInput, TokenLayout
from workers.decoding.text_decoder import TextDecoder
from workers.families.loaded import LoadedModel
from workers.families.prompts import PromptPart, Turn
from workers.settings import EngineSettings


@dataclass(frozen=True, slots=True)
class Suffixes:
    """Token ids of each label after the prompt, which loses its last `cut` tokens."""

    ids: list[list[int]]
    cut: int


@dataclass(frozen=True, slots=True)
class Inputs:
    """One item's tensors, and what is needed to make its answer.

    Attributes:
        tensors: Without a batch dimension; those of `Architecture.per_token` are (tokens, …).
        images: In the order of the prompt, or all of them as one.
        example_images: Images that belong to examples; they come first.
        prompt: The prompt's text, an image being one token.
        template: Name of the prompt template.
        seed: Seed of a sampled answer.
        suffixes: Tokens of each label after the prompt, if labels are to be ranked.
        layout: How the prompt's tokens lie.
    """

    tensors: dict[str, torch.Tensor]
    images: Sequence[ImageInput]
    example_images: int
    prompt: str
    template: str
    seed: int | None
    suffixes: Suffixes | None
    layout: TokenLayout = PLAIN_LAYOUT


class Architecture(ABC):
    """Adapter of a loaded model. Subclasses implement what differs between architectures."""

    #: Name of the family.
    name: ClassVar[str]
    #: Class that loads the processor.
    processor_class: ClassVar[Any] = AutoProcessor
    #: Languages that the model was trained to answer in; empty if unknown.
    languages: ClassVar[tuple[str, ...]] = ()
    #: Tensors with a row for each token; those of shorter items are padded with zeros.
    per_token: ClassVar[frozenset[str]] = frozenset({"input_ids", "attention_mask"})
    #: True if the family cannot work without a chat template.
    needs_template: ClassVar[bool] = False
    #: True if images are sent to the device as uint8 and normalized there; see pixels.py.
    sends_uint8: ClassVar[bool] = True

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.model, self.device, self.pixels = loaded.model, loaded.device, loaded.pixels
        self.processor, self.tokenizer = loaded.processor, loaded.tokenizer

    # ---- what a family implements ------------------------------------------------------

    @abstractmethod
    def encode(
        self, text: str, images: Sequence[Image.Image], processor: Any
    ) -> tuple[dict[str, torch.Tensor], Sequence[ImageInput]]:
        """Return one item's tensors, without a batch dimension, and its images in order.

        Args:
            text: As `render` returns it.
            images: In the order of the text.
            processor: The model's, or one that sees images at another detail.
        """

    @abstractmethod
    def collate_images(self, items: Sequence[Inputs]) -> dict[str, torch.Tensor]:
        """Collate the tensors of a batch that are not per token."""

    # ---- what a family may override ---------------------------------------------------

    @classmethod
    def style(cls, processor: Any, settings: EngineSettings) -> Style:
        """Return the style of prompts that a model with this processor was trained on."""
        if settings.prompt_style != "auto":
            return settings.prompt_style
        return "chat" if processor.chat_template else "plain"

    def image_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height at which the vision encoder sees an image."""
        return width, height

    @classmethod
    def limits(cls, model_type: str) -> Mapping[str, int]:
        """Return fields of `ModelLimits` in which a `model_type` differs from other models."""
        return {}

    def text_decoder(self) -> TextDecoder | str:
        """Return the decoder for continuous batching, or why there is none."""
        return "its architecture has no text decoder here"

    def layout(self, tensors: dict[str, torch.Tensor]) -> TokenLayout:
        """Return how the tokens of an item lie for continuous batching."""
        return PLAIN_LAYOUT

    def encode_images(
        self, images: Sequence[ImageInput], patches_at_once: int
    ) -> list[torch.Tensor]:
        """Run the vision encoder: a tensor of features (rows, width) for each image.

        Args:
            patches_at_once: Most patches in one pass; an image with more has a pass of its own.
        """
        raise NotImplementedError

    def render(self, turns: Sequence[Turn]) -> str:
        """Render a prompt as text, with one image token for each image."""
        if self.loaded.card.style == "plain":
            return "".join(
                self.loaded.image_token if isinstance(part, int) else part
                for turn in turns
                for part in turn.parts
            )
        messages = [
            {"role": turn.role, "content": [_content(part) for part in turn.parts]}
            for turn in turns
        ]
        try:
            text: str = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        except (jinja2.TemplateError, TypeError) as error:
            raise ItemRefused(f"the model's chat template refuses this: {error}") from error
        return text

    def completed(self, text: str) -> str:
        """Return a prompt's text with what its processor writes behind it."""
        return text

    def has_bos(self, text: str) -> bool:
        """True if a prompt's text begins with the BOS token, which a tokenizer would add again."""
        begin = self.tokenizer.bos_token
        return bool(begin) and text.startswith(begin)

    def batch_key(self, item: Inputs) -> Hashable:
        """Key of an item's batch: items with equal keys can be collated."""
        return None

    def continuation_inputs(
        self, outputs: Any, tensors: dict[str, torch.Tensor], rows: int, tokens: int
    ) -> dict[str, torch.Tensor]:
        """Return what a forward pass after a cached prefix needs besides ids, mask and cache.

        Args:
            outputs: Outputs of the prefix's forward pass, one row.
            tensors: Inputs of that pass.
            rows: Rows of the pass after it.
            tokens: Tokens of each of these rows.
        """
        return {}

    # ---- for all families -------------------------------------------------------------

    def text_ids(self, text: str) -> list[int]:
        """Tokenize a prompt's text; an image is one token."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=not self.has_bos(text)).input_ids
        return ids

    def collate(self, items: Sequence[Inputs]) -> dict[str, torch.Tensor]:
        """Collate the tensors of a batch on the device, texts padded on the left."""
        longest = max(len(item.tensors["input_ids"]) for item in items)
        padding = {"input_ids": self.loaded.padding}
        tensors = {
            name: torch.stack(
                [_pad(item.tensors[name], longest, padding.get(name, 0)) for item in items]
            )
            for name in self.per_token & items[0].tensors.keys()
        }
        return self.loaded.to_device(tensors | self.collate_images(items))


def _content(part: PromptPart) -> dict[str, str]:
    return {"type": "image"} if isinstance(part, int) else {"type": "text", "text": part}


def _pad(tensor: torch.Tensor, length: int, value: int) -> torch.Tensor:
    missing = (length - tensor.shape[0], *tensor.shape[1:])
    return torch.cat([tensor.new_full(missing, value), tensor])
