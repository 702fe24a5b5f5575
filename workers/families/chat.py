"""Any other image-text-to-text model whose processor has a chat template: LLaVA or Qwen-VL.

Of its tensors only this is known: those as long as the prompt are per token, and all others belong
to the images and are concatenated. Items whose image tensors cannot be concatenated are answered in
separate batches.
"""

from collections.abc import Hashable, Sequence

import torch
from PIL import Image

from workers.decoding.prompt import ImageInput
from workers.families import family
from workers.families.architecture import Architecture, Inputs
from workers.families.family import TransformersFamily
from workers.settings import EngineSettings


class Chat(Architecture):
    """Adapter of a model of an architecture without a family of its own."""

    name = "chat"
    per_token = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"})
    sends_uint8 = False
    needs_template = True

    def encode(
        self, text: str, images: Sequence[Image.Image]
    ) -> tuple[dict[str, torch.Tensor], Sequence[ImageInput]]:
        """See Architecture.encode."""
        encoded = self.processor(
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
        return tensors, []

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


def load(settings: EngineSettings) -> TransformersFamily:
    """Load the checkpoint."""
    return family.load(Chat, settings)
