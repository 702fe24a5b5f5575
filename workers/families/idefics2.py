"""Idefics2, and every checkpoint fine-tuned from it; the demonstration model is one.

Items are prepared alone, each by the checkpoint's own processor, so that one bad item raises
for itself only. Batches are padded on the left (on the right, answers depend on neighbours) and
pixels at the bottom and right, with masks that make both invisible to the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from db.errors import EngineError, PromptTooLong
from db.requests import Limits, ModelCard
from workers.families import checkpoints
from workers.families.base import Answer, Prepared
from workers.families.prompts import instruction
from workers.families.special import spell_out
from workers.settings import EngineSettings

NOTES = {"demo": "Demonstration model: knows drawn scenes of coloured shapes and nothing else."}


@dataclass(frozen=True, slots=True)
class Inputs:
    """One item's tensors.

    Attributes:
        ids: int64 (tokens,).
        pixels: float32 (images, 3, height, width), or None without images.
        mask: bool (images, height, width), False where a smaller image of the item is padded.
        template: Name of the prompt template.
    """

    ids: torch.Tensor
    pixels: torch.Tensor | None
    mask: torch.Tensor | None
    template: str


class Idefics2:
    """A pinned Idefics2.

    Args:
        settings: Which checkpoint, where and in which number format.
    """

    def __init__(self, settings: EngineSettings) -> None:
        if settings.torch_threads:
            torch.set_num_threads(settings.torch_threads)
        where, revision = checkpoints.location(settings), checkpoints.revision(settings)
        self._processor = AutoProcessor.from_pretrained(where, revision=revision)
        self._tokenizer = self._processor.tokenizer
        self._tokenizer.padding_side = "left"
        self._model = AutoModelForImageTextToText.from_pretrained(
            where,
            revision=revision,
            dtype=getattr(torch, settings.dtype),
            use_safetensors=True,
        )
        self._model.eval().to(settings.device)
        self._special = [*self._tokenizer.get_added_vocab()]
        self._context = self._model.config.text_config.max_position_embeddings
        self.card = ModelCard(
            name=settings.model,
            family="idefics2",
            kinds=["caption", "vqa"],
            limits=Limits(max_images=8, max_new_tokens=settings.max_new_tokens),
            licence=checkpoints.licence(settings),
            note=NOTES.get(settings.model, ""),
            revision=settings.model_revision,
            dtype=settings.dtype,
            device=settings.device,
        )

    # ---- CPU ------------------------------------------------------------------------

    def prepare(self, request: dict[str, Any], images: Sequence[Image.Image]) -> Prepared:
        """See Family.prepare."""
        text, template = instruction(request)
        content: list[dict[str, str]] = [{"type": "image"} for _ in images]
        content.append({"type": "text", "text": spell_out(text, self._special)})
        prompt = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        encoded = self._processor(images=[list(images)], text=[prompt], return_tensors="pt")
        ids = encoded["input_ids"][0]
        most = self._context - self._most_new_tokens(request)
        if len(ids) > most:
            raise PromptTooLong(f"{len(ids)} tokens; this model takes {most} beside the answer")
        inputs = Inputs(
            ids=ids,
            pixels=encoded["pixel_values"][0] if images else None,
            mask=encoded["pixel_attention_mask"][0].bool() if images else None,
            template=template,
        )
        return Prepared(request, tokens=len(ids), inputs=inputs)

    def _most_new_tokens(self, request: dict[str, Any]) -> int:
        asked = request.get("options", {}).get("max_new_tokens")
        return int(asked or self.card.limits.max_new_tokens)

    # ---- device ---------------------------------------------------------------------

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def generate(self, batch: Sequence[Prepared]) -> list[Answer]:
        """See Family.generate."""
        tensors = self._collate([item.inputs for item in batch])
        options = dict(batch[0].request.get("options", {}))
        options["max_new_tokens"] = self._most_new_tokens(batch[0].request)
        try:
            output = self._model.generate(**tensors, do_sample=False, **options)
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise MemoryError(str(error)) from error
        except RuntimeError as error:
            raise EngineError(f"generation failed: {type(error).__name__}") from error
        new = output[:, tensors["input_ids"].shape[1] :].cpu()
        texts = self._tokenizer.batch_decode(new, skip_special_tokens=True)
        return [
            self._answer(item, ids, text) for item, ids, text in zip(batch, new, texts, strict=True)
        ]

    def _answer(self, item: Prepared, ids: torch.Tensor, text: str) -> Answer:
        ends = self._model.generation_config.eos_token_id
        stopped = torch.isin(ids, torch.tensor(ends)).nonzero()
        length = int(stopped[0]) + 1 if len(stopped) else len(ids)
        return Answer(
            text=text.strip(),
            finish_reason="stop" if len(stopped) else "length",
            prompt_tokens=item.tokens,
            completion_tokens=length,
            template=item.inputs.template,
        )

    def _collate(self, items: Sequence[Inputs]) -> dict[str, torch.Tensor]:
        longest = max(len(item.ids) for item in items)
        ids = torch.full((len(items), longest), self._tokenizer.pad_token_id)
        attention = torch.zeros((len(items), longest), dtype=torch.long)
        for row, item in enumerate(items):
            ids[row, longest - len(item.ids) :] = item.ids
            attention[row, longest - len(item.ids) :] = 1
        tensors = {"input_ids": ids, "attention_mask": attention} | _stack_images(items)
        device, dtype = self._model.device, self._model.dtype
        return {
            name: tensor.to(device, dtype if tensor.is_floating_point() else None)
            for name, tensor in tensors.items()
        }


def _stack_images(items: Sequence[Inputs]) -> dict[str, torch.Tensor]:
    """Pad to the most images and the largest sides; a slot without image is zeros, unseen."""
    shown = [item.pixels.shape for item in items if item.pixels is not None]
    if not shown:
        return {}
    most, height, width = (max(shape[axis] for shape in shown) for axis in (0, 2, 3))
    pixels = torch.zeros((len(items), most, 3, height, width))
    mask = torch.zeros((len(items), most, height, width), dtype=torch.bool)
    for row, item in enumerate(items):
        if item.pixels is None or item.mask is None:
            continue
        images, _, rows, columns = item.pixels.shape
        pixels[row, :images, :, :rows, :columns] = item.pixels
        mask[row, :images, :rows, :columns] = item.mask
    return {"pixel_values": pixels, "pixel_attention_mask": mask}


def load(settings: EngineSettings) -> Idefics2:
    """Load and pin the checkpoint."""
    return Idefics2(settings)
