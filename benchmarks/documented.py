"""transformers, called as the page of Idefics2 in its documentation calls it."""

import io
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from PIL import Image

from benchmarks.workload import tokens_of


class Documented:
    """A loaded checkpoint that answers batches as they come."""

    def __init__(self, folder: Path) -> None:
        self._processor = transformers.AutoProcessor.from_pretrained(folder, backend="pil")
        self._model = transformers.AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float32
        ).eval()

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def answer(
        self, pictures: Sequence[bytes], questions: Sequence[str], *, most: int, least: int = 0
    ) -> list[list[int]]:
        """Token ids of the answers to one batch, of `least` to `most` tokens each."""
        prompts = [self._prompt(question) for question in questions]
        images = [[Image.open(io.BytesIO(data)).convert("RGB")] for data in pictures]
        inputs = self._processor(text=prompts, images=images, padding=True, return_tensors="pt")
        ends = [2, self._processor.tokenizer.convert_tokens_to_ids("<end_of_utterance>")]
        ids = self._model.generate(
            **inputs, max_new_tokens=most, min_new_tokens=least, do_sample=False, eos_token_id=ends
        )
        return [row.tolist() for row in ids[:, inputs["input_ids"].shape[1] :]]

    def caption(self, names: Sequence[str], pictures: Sequence[bytes]) -> list[str]:
        """Captions of one batch, as long as the files' names say; see workload.tokens_of."""
        tokens = [tokens_of(name) for name in names]
        least, most = (max(some) for some in zip(*tokens, strict=True))
        asked = ["Describe the image."] * len(pictures)
        answers = self.answer(pictures, asked, most=most, least=least)
        return self.decode([ids[:n] for ids, (_, n) in zip(answers, tokens, strict=True)])

    def decode(self, answers: Sequence[Sequence[int]]) -> list[str]:
        """Token ids as texts."""
        return [
            text.strip() for text in self._processor.batch_decode(answers, skip_special_tokens=True)
        ]

    def _prompt(self, question: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        turns = [{"role": "user", "content": content}]
        prompt: str = self._processor.apply_chat_template(turns, add_generation_prompt=True)
        return prompt
