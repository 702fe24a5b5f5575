"""Any other image-text-to-text model whose processor has a chat template: LLaVA or Qwen-VL.

Nothing is known of its tensors but this: those as long as the prompt are per token, all others
belong to the pictures and are laid end to end. Items whose pictures' tensors do not fit end to
end go to the device in batches of their own.
"""

from collections.abc import Hashable, Sequence

import torch
from PIL import Image

from workers.decoding.prompt import Picture
from workers.families.pinned import Inputs, Pinned
from workers.settings import EngineSettings


class Chat(Pinned):
    """A pinned model of an architecture that has no file here."""

    name = "chat"
    per_token = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"})
    sends_bytes = False
    needs_template = True

    def encode(
        self, text: str, images: Sequence[Image.Image]
    ) -> tuple[dict[str, torch.Tensor], Sequence[Picture]]:
        """Whatever the processor makes of one item."""
        encoded = self._processor(
            text=[text],
            # As apply_chat_template(tokenize=True) calls it: LLaVA-OneVision and others make
            # another prompt of the images of one conversation than of as many conversations.
            images=[list(images)] if images else None,
            add_special_tokens=not self.begins_itself(text),
            return_tensors="pt",
        )
        tensors = {
            name: tensor[0] if name in self.per_token else tensor
            for name, tensor in encoded.items()
            if isinstance(tensor, torch.Tensor) and name != "labels"  # those are for training
        }
        return tensors, []

    def collate_images(self, items: Sequence[Inputs]) -> dict[str, torch.Tensor]:
        """The pictures' tensors end to end, in the order of the items."""
        names = items[0].tensors.keys() - self.per_token
        return {name: torch.cat([item.tensors[name] for item in items]) for name in names}

    def like(self, item: Inputs) -> Hashable:
        """Names and shapes, but for the first axis."""
        return tuple(
            (name, tuple(tensor.shape[1:]))
            for name, tensor in sorted(item.tensors.items())
            if name not in self.per_token
        )


def load(settings: EngineSettings) -> Chat:
    """Load and pin the checkpoint."""
    return Chat(settings)
