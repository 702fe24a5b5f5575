"""Any other image-text-to-text model whose processor has a chat template: LLaVA or Qwen-VL.

Of its tensors only this is known: those as long as the prompt are per token, and all others belong
to the images and are concatenated. Items whose image tensors cannot be concatenated are answered in
separate batches.

For continuous batching the model's own modules are used: its vision encoder makes the features of
all images of a prompt together, and they replace the image tokens. Whether that is all that the
model does is found out by the self-check; what it does besides is served by `generate`.
"""

import inspect
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from transformers import GenerationMixin
from transformers.models.gemma3.modeling_gemma3 import get_block_sequence_ids_for_mask

from workers.decoding.embedded_images import EmbeddedImagesDecoder
from workers.decoding.prompt import PLAIN_LAYOUT, ImageInput, TokenLayout
from workers.decoding.text_decoder import TextDecoder
from workers.families import family
from workers.families.architecture import Architecture, Inputs
from workers.families.family import TransformersFamily
from workers.families.loaded import LoadedModel
from workers.settings import EngineSettings

PIXELS = "pixel_values"
_ONE_IMAGE = {"min_images": 1, "max_images": 1, "max_examples": 0}
#: By `model_type`, limits of models that take no conversations.
LIMITS = {
    "paligemma": {"min_images": 1, "max_examples": 0},
    "blip-2": _ONE_IMAGE,
    "instructblip": _ONE_IMAGE,
}


class Chat(Architecture):
    """Adapter of a model of an architecture without a family of its own."""

    name = "chat"
    per_token = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"})
    sends_uint8 = False
    needs_template = True

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__(loaded)
        if self.model.config.model_type == "mistral3":
            self.model.model.multi_modal_projector.register_forward_hook(_with_batch_axis)
        if self.model.config.model_type == "janus":
            # Its own drops what is to shape the logits.
            self.model.generate = partial(GenerationMixin.generate, self.model)
        if self.model.config.model_type.startswith("glm"):
            # Its own repeats the images A and B as A, A, B, B for two beams that read A, B each.
            expand = GenerationMixin._expand_multimodal_outputs  # noqa: SLF001
            self.model._expand_multimodal_outputs = partial(expand, self.model)  # noqa: SLF001

    @classmethod
    def limits(cls, model_type: str) -> Mapping[str, int]:
        """See Architecture.limits."""
        return LIMITS.get(model_type, {})

    def encode(
        self, text: str, images: Sequence[Image.Image], processor: Any
    ) -> tuple[dict[str, torch.Tensor], Sequence[ImageInput]]:
        """See Architecture.encode. All images of an item are one input of the vision encoder."""
        encoded = processor(
            text=[text],
            # As apply_chat_template(tokenize=True) calls it: LLaVA-OneVision and others make
            # another prompt of the images of one conversation than of as many conversations.
            images=[list(images)] if images else None,
            add_special_tokens=not self.has_bos(text),
            return_tensors="pt",
        )
        tensors = {
            name: tensor[0] if name in self.per_token else tensor
            for name, tensor in encoded.items()
            if isinstance(tensor, torch.Tensor) and name != "labels"  # those are for training
        }
        beside = {name: tensors[name] for name in tensors.keys() - self.per_token - {PIXELS}}
        if PIXELS not in tensors:
            return tensors, []
        rows = int((tensors["input_ids"] == self._image_token()).sum())
        pixels, patch_pixels = tensors[PIXELS], self.loaded.patch_pixels
        # A row of Qwen-VL is a patch, twice: once for each of two frames.
        count = len(pixels) * patch_pixels if pixels.dim() == 2 else pixels.numel() // 3
        return tensors, [ImageInput.all_of(pixels, beside, rows, count)]

    def completed(self, text: str) -> str:
        """See Architecture.completed."""
        return f"{text}\n" if self.model.config.model_type == "paligemma" else text

    def collate_images(self, items: Sequence[Inputs]) -> dict[str, torch.Tensor]:
        """Concatenate the images' tensors in the order of the items."""
        names = items[0].tensors.keys() - self.per_token
        return {name: torch.cat([item.tensors[name] for item in items]) for name in names}

    def batch_key(self, item: Inputs) -> Hashable:
        """See Architecture.batch_key: names and shapes of the tensors, without the first axis."""
        return tuple(
            (name, tuple(tensor.shape[1:]))
            for name, tensor in sorted(item.tensors.items())
            if name not in self.per_token
        )

    def text_decoder(self) -> TextDecoder | str:
        """See Architecture.text_decoder."""
        inside = getattr(self.model, "model", None)
        if getattr(self.model.config.get_text_config(), "cross_attention_layers", None):
            return "layers between those of its text model attend to images"
        if not hasattr(inside, "get_image_features") or not hasattr(inside, "language_model"):
            return "its modules are put together in another way than those of other models"
        if self.model.config.model_type == "ovis2":
            return "tokens around an image have features of their own"
        if getattr(self.model.config.get_text_config(), "is_heterogeneous", False):
            return "layers of its text model differ in their size"
        return EmbeddedImagesDecoder(self.model, self._image_token())

    def _image_token(self) -> int:
        config = self.model.config
        token = getattr(config, "image_token_id", None)
        token = getattr(config, "image_token_index", None) if token is None else token
        return -1 if token is None else int(token)

    @property
    def _get_rope_index(self) -> Any:
        """What counts the positions of a prompt in several axes; None for plain positions."""
        return getattr(getattr(self.model, "model", None), "get_rope_index", None)

    def layout(self, tensors: dict[str, torch.Tensor]) -> TokenLayout:
        """See Architecture.layout: several axes in Qwen-VL, images in both directions in Gemma."""
        get_rope_index = self._get_rope_index
        if PIXELS not in tensors:
            return PLAIN_LAYOUT
        if get_rope_index is not None:
            rows = {
                name: tensor[None] if name in self.per_token else tensor
                for name, tensor in tensors.items()
            }
            positions, _ = get_rope_index(**_taken(get_rope_index, rows))
            return TokenLayout(positions=positions[:, 0])
        if self.model.config.model_type == "paligemma":
            # Tokens of a prompt, texts as well, all attend to each other.
            return TokenLayout(blocks=torch.zeros_like(tensors["input_ids"]))
        if (types := tensors.get("token_type_ids")) is not None:
            return TokenLayout(blocks=get_block_sequence_ids_for_mask(types[None])[0].long())
        return PLAIN_LAYOUT

    def continuation_inputs(
        self, outputs: Any, tensors: dict[str, torch.Tensor], rows: int, tokens: int
    ) -> dict[str, torch.Tensor]:
        """See Architecture.continuation_inputs: positions, where they have several axes."""
        if self._get_rope_index is None:
            return {}
        bare = {name: t[0] if name in self.per_token else t for name, t in tensors.items()}
        begun = self.layout(bare).next_position(len(bare["input_ids"]))
        positions = torch.arange(begun, begun + tokens, device=self.device)
        return {"position_ids": positions.expand(3, rows, tokens)}

    def encode_images(
        self, images: Sequence[ImageInput], patches_at_once: int
    ) -> list[torch.Tensor]:
        """See Architecture.encode_images. Images whose tensors can be concatenated go together."""
        patch_pixels = self.loaded.patch_pixels
        groups: dict[Hashable, list[int]] = {}
        held: dict[Hashable, int] = {}
        encoded = [torch.empty(0)] * len(images)
        for number, image in enumerate(images):
            shapes = [(name, tuple(one.shape[1:])) for name, one in sorted(image.beside.items())]
            key = (tuple(image.pixels.shape[1:]), tuple(shapes))
            patches = image.pixel_count // patch_pixels
            if key in groups and held[key] + patches > patches_at_once:
                self._encode_together(images, groups.pop(key), encoded)
            held[key] = patches + (held[key] if key in groups else 0)
            groups.setdefault(key, []).append(number)
        for numbers in groups.values():
            self._encode_together(images, numbers, encoded)
        return encoded

    def _encode_together(
        self, images: Sequence[ImageInput], numbers: Sequence[int], encoded: list[torch.Tensor]
    ) -> None:
        some = [images[number] for number in numbers]
        together = {PIXELS: torch.cat([image.pixels for image in some])}
        for name in some[0].beside:
            together[name] = torch.cat([image.beside[name] for image in some])
        together = self.loaded.to_device(together)
        if self.model.config.vision_config.model_type == "pixtral":
            # Its attention over several images is computed whole and masked.
            ones = [
                {name: tensor[at : at + 1] for name, tensor in together.items()}
                for at in range(len(together[PIXELS]))
            ]
            features = torch.cat([self._features(one) for one in ones])
        else:
            features = self._features(together)
        parts = features.split([image.rows for image in some])
        for number, part in zip(numbers, parts, strict=True):
            encoded[number] = part

    def _features(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        """Features of images, end to end; those for later layers beside those for the first."""
        get = self.model.model.get_image_features
        outputs = get(**_taken(get, tensors), return_dict=True)
        later = getattr(outputs, "deepstack_features", None) or ()
        return torch.cat([_end_to_end(one) for one in (outputs.pooler_output, *later)], 1)


def _with_batch_axis(_module: Any, _inputs: Any, features: torch.Tensor) -> torch.Tensor:
    """Keep the axis that Mistral 3 takes away, or a small image of one token has none left."""
    return features if features.dim() == 3 else features[None]


def _taken(function: Any, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What of some arguments a function names."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in given.items() if name in names}


def _end_to_end(features: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    """Features of all images, (rows, width)."""
    if isinstance(features, torch.Tensor):
        return features.reshape(-1, features.shape[-1])
    return torch.cat([_end_to_end(one) for one in features])


def load(settings: EngineSettings) -> TransformersFamily:
    """Load the checkpoint."""
    return family.load(Chat, settings)
