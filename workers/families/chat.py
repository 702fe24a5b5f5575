"""Any other image-text-to-text model whose processor has a chat template: LLaVA or Qwen-VL.

Nothing is known of its tensors but this: those as long as the prompt are per token, all others
belong to the pictures and are laid end to end. Items whose pictures' tensors do not fit end to
end go to the device in batches of their own.
"""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from transformers import AutoProcessor

from db.errors import RequestError
from workers.families import loading
from workers.families.pinned import Inputs, Pinned
from workers.settings import EngineSettings


class Chat(Pinned):
    """A pinned model of an architecture that has no file here."""

    name = "chat"
    per_token: ClassVar[dict[str, int]] = {
        "input_ids": 0,
        "attention_mask": 0,
        "token_type_ids": 0,
        "mm_token_type_ids": 0,
    }

    def load_processor(self, where: Path, settings: EngineSettings) -> Any:
        """The processor, with the settings' chat template if there is one."""
        try:
            processor = AutoProcessor.from_pretrained(where, **loading.LOCAL, backend="pil")
        except (OSError, ValueError, ImportError) as error:
            raise RequestError(
                f"the processor of model {settings.model!r} cannot be loaded: {error}"
            ) from error
        if settings.chat_template:
            processor.chat_template = Path(settings.chat_template).read_text(encoding="utf-8")
        if not getattr(processor, "chat_template", None):
            raise RequestError(
                f"the processor of model {settings.model!r} has no chat template;"
                " name a file that holds one with IDEFIQ_CHAT_TEMPLATE"
            )
        return processor

    def encode(self, text: str, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """Whatever the processor makes of one item."""
        begun = self._tokenizer.bos_token
        encoded = self._processor(
            text=[text],
            images=list(images) or None,
            return_tensors="pt",
            # Many templates write the first token themselves.
            add_special_tokens=not (begun and text.startswith(begun)),
        )
        return {
            name: tensor[0] if name in self.per_token else tensor
            for name, tensor in encoded.items()
            if isinstance(tensor, torch.Tensor) and name != "labels"  # those are for training
        }

    def collate_images(self, items: Sequence[Inputs]) -> dict[str, torch.Tensor]:
        """The pictures' tensors end to end, in the order of the items."""
        names = items[0].tensors.keys() - self.per_token.keys()
        return {name: torch.cat([item.tensors[name] for item in items]) for name in names}

    def like(self, item: Inputs) -> Hashable:
        """Names and shapes, but for the first axis."""
        return tuple(
            (name, tuple(tensor.shape[1:]))
            for name, tensor in sorted(item.tensors.items())
            if name not in self.per_token
        )

    def _text_ids(self, text: str) -> list[int]:
        begun = self._tokenizer.bos_token
        special = not (begun and text.startswith(begun))
        ids: list[int] = self._tokenizer(text, add_special_tokens=special).input_ids
        return ids


def load(settings: EngineSettings) -> Chat:
    """Load and pin the checkpoint."""
    return Chat(settings)
