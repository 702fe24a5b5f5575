"""transformers, called as the documentation of a model calls it: see exact.py."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

from tests.workers.families.cases import TOKENS, Case, Message, Piece
from workers.families.processors import pixtral_class
from workers.families.videoless import without_videos

#: Tokens of images: in an answer they would stand for pictures that are not there.
NEVER = {
    *("<image>", "<fake_token_around_image>", "<global-img>", "<video>"),
    *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    *("<img>", "</img>", "<IMG_CONTEXT>"),
    *("<|image|>", "<|begin_of_image|>", "<|end_of_image|>"),
    *("<begin_of_image>", "<end_of_image>"),
    *("<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"),
    *("<|video|>", "<|begin_of_video|>", "<|end_of_video|>"),
    *("<image_soft_token>", "<start_of_image>", "<end_of_image>"),
    *("[IMG]", "[IMG_BREAK]", "[IMG_END]", "<image_placeholder>"),
    *("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>"),
    *("<IMG_ATOM>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"),
}
#: fp32 noise between two ways of adding up the same numbers.
END = "<end_of_utterance>"


def _questions(chat: list[Message]) -> str:
    said = [
        f"Question: {_texts(pieces)} Answer:" if role == "user" else f" {_texts(pieces)} "
        for role, pieces in chat
    ]
    return "".join(said)


def _texts(pieces: list[Piece]) -> str:
    return "".join(piece for piece in pieces if isinstance(piece, str))


#: By `model_type`, how a documentation writes the prompts of a model without a chat template.
WRITTEN: dict[str, Callable[[list[Message]], str]] = {
    "paligemma": lambda chat: "".join(
        "<image>" if isinstance(piece, int) else piece for _, pieces in chat for piece in pieces
    ),
    "blip-2": _questions,
    "instructblip": lambda chat: "".join(_texts(pieces) for _, pieces in chat),
}


@dataclass
class Reference:
    """A checkpoint called as the documentation of its model does."""

    folder: Path
    model: Any = field(init=False)
    processor: Any = field(init=False)

    def __post_init__(self) -> None:
        self.model = transformers.AutoModelForImageTextToText.from_pretrained(
            self.folder, dtype=torch.float32
        ).eval()
        kind = self.model.config.model_type
        # SmolVLM's own processor wants libraries for videos.
        own = transformers.Idefics3Processor if kind == "smolvlm" else transformers.AutoProcessor
        if (
            kind in ("llava", "mistral3")
            and self.model.config.vision_config.model_type == "pixtral"
        ):
            own = pixtral_class()  # which wants torchvision for nothing
        with without_videos():  # which need torchvision
            self.processor = own.from_pretrained(self.folder, backend="pil")
        self.processor.tokenizer.padding_side = "left"

    @property
    def style(self) -> str:
        if self.model.config.model_type == "idefics":
            return "chat" if "<end_of_utterance>" in self._vocabulary else "plain"
        has_template = self.processor.chat_template or self.model.config.model_type in WRITTEN
        return "chat" if has_template else "plain"

    @property
    def _vocabulary(self) -> dict[str, int]:
        vocabulary: dict[str, int] = self.processor.tokenizer.get_vocab()
        return vocabulary

    def inputs(self, case: Case, images: Sequence[Image.Image], more: str = "") -> Any:
        """What the processor makes of a case; `more` is written after the prompt."""
        order = [
            piece
            for pieces in (
                [case.plain or []] if self.style == "plain" else [p for _, p in case.chat]
            )
            for piece in pieces
            if isinstance(piece, int)
        ]
        shown = [images[number] for number in order]
        if self.model.config.model_type == "idefics":
            pieces = case.plain if self.style == "plain" else _guide(case.chat)
            prompt = [images[p] if isinstance(p, int) else p for p in pieces or []]
            if more and isinstance(prompt[-1], str):
                prompt[-1] = prompt[-1].rstrip(" ") + more
            elif more:
                prompt.append(more.strip(" "))
            return self.processor(
                text=[prompt], add_end_of_utterance_token=False, return_tensors="pt"
            )
        write = WRITTEN.get(self.model.config.model_type)
        if self.style == "chat" and not more and not write:
            return self.processor.apply_chat_template(
                _messages(case, images),
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        if self.style == "plain":
            text = "".join("<image>" if isinstance(p, int) else p for p in case.plain or [])
        elif write:
            text = write(case.chat)
        else:
            text = self.processor.apply_chat_template(
                _messages(case, images), add_generation_prompt=True
            )
        if self.model.config.model_type == "paligemma" and more:
            written = self.processor(text=text, suffix=more, images=[shown], return_tensors="pt")
            per_token = ("input_ids", "attention_mask", "token_type_ids")
            # Without the end, which comes after a suffix.
            cut = {name: written[name][:, :-1] for name in per_token}
            return {"pixel_values": written["pixel_values"], **cut}
        return self.processor(
            text=[text.rstrip(" ") + more if more else text],
            images=[shown] if shown else None,
            return_tensors="pt",
            # As apply_chat_template(tokenize=True) does, where a template writes the first token.
            add_special_tokens=not text.startswith("<s>"),
        )

    def answer(self, case: Case, images: Sequence[Image.Image]) -> list[int]:
        """New tokens, as the guide generates them."""
        inputs = self.inputs(case, images)
        bad = [
            [number]
            for token, number in self._vocabulary.items()
            if (token in NEVER or token.startswith(("<row_", "<|img_row_")))
            # That of Llama 3.2 Vision lies behind the vocabulary.
            and number < self.model.get_output_embeddings().weight.shape[0]
        ]
        ends = [2, *([self._vocabulary[END]] if END in self._vocabulary else [])]
        output = self.model.generate(
            **inputs,
            do_sample=False,
            eos_token_id=ends,
            **({"bad_words_ids": bad} if bad else {}),
            **{"max_new_tokens": TOKENS, **case.request.get("options", {})},
        )
        new: list[int] = output[0, inputs["input_ids"].shape[1] :].tolist()
        return new

    def _ends_line(self, case: Case, images: Sequence[Image.Image]) -> bool:
        """Whether a prompt ends with a line, so that a label needs no space before it."""
        if self.style == "plain":
            return str(case.request.get("template", "")).endswith("\n")
        if self.model.config.model_type == "idefics":
            return False
        if self.model.config.model_type == "paligemma":
            return True  # its processor ends it
        if write := WRITTEN.get(self.model.config.model_type):
            return write(case.chat).endswith("\n")
        text: str = self.processor.apply_chat_template(
            _messages(case, images), add_generation_prompt=True
        )
        return text.endswith("\n")

    def scores(self, case: Case, images: Sequence[Image.Image]) -> list[float]:
        """The logarithmic likelihood of each label, written out after the whole prompt."""
        prompt = self.inputs(case, images)
        begun = prompt["input_ids"][0].tolist()
        space = "" if self._ends_line(case, images) else " "
        written = [self.inputs(case, images, f"{space}{label}") for label in case.request["labels"]]
        whole = [inputs["input_ids"][0].tolist() for inputs in written]
        # What all of them share is the prompt; a tokenizer may join its end to a label.
        shared = min(_common(begun, ids) for ids in whole)
        sums = []
        for inputs, ids in zip(written, whole, strict=True):
            if "qformer_input_ids" in prompt:  # what reads the image reads no answer
                for name in ("qformer_input_ids", "qformer_attention_mask"):
                    inputs[name] = prompt[name]
            logprobs = self.model(**inputs).logits[0].log_softmax(-1)
            sums.append(sum(float(logprobs[at - 1, ids[at]]) for at in range(shared, len(ids))))
        return sums


def _messages(case: Case, images: Sequence[Image.Image]) -> list[dict[str, Any]]:
    """A conversation as the documentation writes it, with its pictures."""
    return [
        {
            "role": role,
            "content": [
                {"type": "image", "image": images[piece]}
                if isinstance(piece, int)
                else {"type": "text", "text": piece}
                for piece in pieces
            ],
        }
        for role, pieces in case.chat
    ]


def _common(one: list[int], other: list[int]) -> int:
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), len(one))


def _guide(chat: list[Message]) -> list[Piece]:
    """A conversation as the guide writes it for IDEFICS instruct."""
    pieces: list[Piece] = []
    for number, (role, said) in enumerate(chat):
        first = ("\n" if number else "") + ("User:" if role == "user" else "Assistant:")
        rest = list(said)
        if isinstance(rest[0], str):
            first += f" {rest.pop(0)}"
        pieces += [first, *rest]
        if isinstance(pieces[-1], str):
            pieces[-1] = pieces[-1].rstrip(" ") + END
        else:
            pieces.append(END)
    return [*pieces, "\nAssistant:"]
