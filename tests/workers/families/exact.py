"""Our answers against transformers called as its own documentation calls it.

Every case is written twice: as a request to the service, and by hand as the documentation would
put it to a processor. Both go through fp32 weights, and the tokens must be the same: alone, in a
batch of all cases of the kind, and in that batch backwards.

`make test-families` prints a line for each checkpoint and kind and writes docs/models.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from db.vocabulary.requests import options_digest
from tests.workers.answering import ids_in_slots
from workers import families
from workers.families.base import Prepared
from workers.families.family import TransformersFamily
from workers.families.processors import pixtral_class
from workers.families.videoless import without_videos
from workers.settings import EngineSettings

TOKENS = 10
#: Tokens of images: in an answer they would stand for pictures that are not there.
NEVER = {
    *("<image>", "<fake_token_around_image>", "<global-img>", "<video>"),
    *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    *("<img>", "</img>", "<IMG_CONTEXT>"),
    *("<|image|>", "<|begin_of_image|>", "<|end_of_image|>"),
    *("<|video|>", "<|begin_of_video|>", "<|end_of_video|>"),
    *("<image_soft_token>", "<start_of_image>", "<end_of_image>"),
    *("[IMG]", "[IMG_BREAK]", "[IMG_END]", "<image_placeholder>"),
    *("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>"),
    *("<IMG_ATOM>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"),
}
#: fp32 noise between two ways of adding up the same numbers.
RANK_TOLERANCE = 1e-4
LABELS = ["animals", "vegetables", "city landscape", "cars", "office"]

#: A text, or the number of an image.
Piece = str | int
Message = tuple[str, list[Piece]]


def pictures() -> list[Image.Image]:
    """Eight pictures of different content and shape."""
    source = np.random.default_rng(7)
    made = []
    for number in range(8):
        corners = source.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        size = [(80, 60), (60, 90), (120, 50), (56, 56)][number % 4]
        made.append(Image.fromarray(corners).resize(size, Image.Resampling.BICUBIC))
    return made


@dataclass(frozen=True, slots=True)
class Case:
    """One question, as a request and as the documentation writes it.

    Attributes:
        request: Without its kind and its count of tokens.
        images: How many pictures go with it, those of examples included.
        plain: The prompt for a base model, None where it has none.
        chat: The conversation for a model that takes turns.
    """

    request: dict[str, Any]
    images: int
    plain: list[Piece] | None
    chat: list[Message]


def _shots(count: int) -> list[dict[str, str]]:
    texts = ["two kittens in grass", "a red wall", "a dog", "a car at night", "vegetables"]
    return [{"image": f"shot {number}", "text": texts[number]} for number in range(count)]


def _caption_shots(count: int) -> Case:
    plain: list[Piece] = []
    chat: list[Message] = []
    for number, shot in enumerate(_shots(count)):
        plain += ["User:", number + 1, f"Describe this image.\nAssistant: {shot['text']}\nUser:"]
        chat += [("user", [number + 1, "Describe the image."]), ("assistant", [shot["text"]])]
    if count:  # the guide writes one text where two meet
        plain = _merged(plain)
    plain += [0, "Describe this image.\nAssistant:"]
    return Case(
        {"examples": _shots(count)}, count + 1, plain, [*chat, ("user", [0, "Describe the image."])]
    )


def _merged(pieces: list[Piece]) -> list[Piece]:
    merged: list[Piece] = []
    for piece in pieces:
        if merged and isinstance(piece, str) and isinstance(merged[-1], str):
            merged[-1] += "" if merged[-1].endswith("User:") and piece == "User:" else piece
        else:
            merged.append(piece)
    return merged


INSTRUCTION = "Instruction: Provide an answer to the question. Use the image to answer.\n"
WEATHER = "Where are these people and what's the weather like?"
CLASSIFY = (
    "Instruction: Classify the following image into a single category from the following list:"
    f" {LABELS}.\n"
)
CLASSIFY_CHAT = (
    "Classify the image into a single category from the following list:"
    f" {', '.join(LABELS)}. Answer with the category alone."
)
CASES: dict[str, list[Case]] = {
    "caption": [
        Case({}, 1, [0], [("user", [0, "Describe the image."])]),
        Case(
            {"prompt": "This is an image of "},
            1,
            [0, "This is an image of "],
            [("user", [0, "This is an image of "])],
        ),
        Case(
            {"language": "French"},
            1,
            ["Instruction: Describe the image in French.\n", 0],
            [("user", [0, "Describe the image. Answer in French."])],
        ),
        *[_caption_shots(count) for count in (1, 3, 5)],
    ],
    "vqa": [
        Case(
            {"question": WEATHER},
            1,
            [INSTRUCTION, 0, f"Question: {WEATHER} Answer:"],
            [("user", [0, WEATHER])],
        ),
        Case(
            {"question": "Why? " * 40},
            1,
            [INSTRUCTION, 0, f"Question: {'Why? ' * 40} Answer:"],
            [("user", [0, "Why? " * 40])],
        ),
        Case(
            {"question": "Which is red?"},
            3,
            [INSTRUCTION, 0, 1, 2, "Question: Which is red? Answer:"],
            [("user", [0, 1, 2, "Which is red?"])],
        ),
        Case(
            {
                "question": "What now?",
                "examples": [{"image": "shot", "text": "yes", "question": "Is it a car?"}],
            },
            2,
            [
                INSTRUCTION,
                1,
                "Question: Is it a car? Answer: yes\n",
                0,
                "Question: What now? Answer:",
            ],
            [("user", [1, "Is it a car?"]), ("assistant", ["yes"]), ("user", [0, "What now?"])],
        ),
    ],
    "classify": [
        Case(
            {"labels": LABELS},
            1,
            [CLASSIFY, 0, "Category: "],
            [("user", [0, CLASSIFY_CHAT])],
        ),
        Case(
            {"labels": LABELS, "examples": [{"image": "shot", "text": "cars"}]},
            2,
            [CLASSIFY, 1, "Category: cars\n", 0, "Category: "],
            [
                ("user", [1, CLASSIFY_CHAT]),
                ("assistant", ["cars"]),
                ("user", [0, CLASSIFY_CHAT]),
            ],
        ),
    ],
    "rank": [
        Case(
            {"labels": LABELS, "method": "rank"},
            1,
            [CLASSIFY, 0, "Category: "],
            [("user", [0, CLASSIFY_CHAT])],
        ),
        Case(
            {"labels": ["yes", "no"], "method": "rank", "template": "{images}Is it a car?\n"},
            2,
            [0, 1, "Is it a car?\n"],
            [("user", [0, 1, "Is it a car?\n"])],
        ),
    ],
    "generate": [
        Case(
            {
                "template": "Instruction: Use the image to write a story. \n{images}Story: \n",
                "options": {"num_beams": 2},
            },
            1,
            ["Instruction: Use the image to write a story. \n", 0, "Story: \n"],
            [("user", ["Instruction: Use the image to write a story. \n", 0, "Story: \n"])],
        ),
        Case(
            {"prompt": "Once upon a time,", "options": {"num_beams": 2}},
            0,
            ["Instruction: Once upon a time,\nText: \n"],
            [("user", ["Once upon a time,"])],
        ),
        Case(
            {"prompt": "Write an ad.", "options": {"repetition_penalty": 1.3}},
            3,
            ["Instruction: Write an ad.\n", 0, 1, 2, "Text: \n"],
            [("user", [0, 1, 2, "Write an ad."])],
        ),
        Case(
            {
                "prompt": "Write a long text about this.",
                "options": {"no_repeat_ngram_size": 2, "min_new_tokens": 4},
            },
            1,
            ["Instruction: Write a long text about this.\n", 0, "Text: \n"],
            [("user", [0, "Write a long text about this."])],
        ),
    ],
    "chat": [
        Case({}, 1, None, [("user", ["What is in this image?", 0])]),
        Case({}, 0, None, [("user", ["Hello, who are you?"])]),
        Case(
            {},
            3,
            None,
            [
                ("user", [0, "Compare these.", 1]),
                ("assistant", ["The first is red."]),
                ("user", ["And this?", 2]),
                ("assistant", ["A dog."]),
                ("user", ["Are you sure?"]),
            ],
        ),
    ],
}


def _request(kind: str, case: Case) -> dict[str, Any]:
    request = {"kind": "classify" if kind == "rank" else kind, **case.request}
    if kind != "rank":
        request["options"] = {"max_new_tokens": TOKENS, **case.request.get("options", {})}
    if kind == "chat":
        request["messages"] = [
            {
                "role": role,
                "content": [
                    {"type": "image", "index": piece}
                    if isinstance(piece, int)
                    else {"type": "text", "text": piece}
                    for piece in pieces
                ],
            }
            for role, pieces in case.chat
        ]
    return request


# ---- transformers, as documented ------------------------------------------------------


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
        return "chat" if self.processor.chat_template else "plain"

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
        if self.style == "chat" and not more:
            return self.processor.apply_chat_template(
                _messages(case, images),
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        if self.style == "plain":
            text = "".join("<image>" if isinstance(p, int) else p for p in case.plain or [])
        else:
            text = self.processor.apply_chat_template(
                _messages(case, images), add_generation_prompt=True
            )
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
            if token in NEVER or token.startswith("<row_")
        ]
        ends = [2, *([self._vocabulary[END]] if END in self._vocabulary else [])]
        output = self.model.generate(
            **inputs,
            do_sample=False,
            eos_token_id=ends,
            bad_words_ids=bad,
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
        text: str = self.processor.apply_chat_template(
            _messages(case, images), add_generation_prompt=True
        )
        return text.endswith("\n")

    def scores(self, case: Case, images: Sequence[Image.Image]) -> list[float]:
        """The logarithmic likelihood of each label, written out after the whole prompt."""
        begun = self.inputs(case, images)["input_ids"][0].tolist()
        space = "" if self._ends_line(case, images) else " "
        written = [self.inputs(case, images, f"{space}{label}") for label in case.request["labels"]]
        whole = [inputs["input_ids"][0].tolist() for inputs in written]
        # What all of them share is the prompt; a tokenizer may join its end to a label.
        shared = min(_common(begun, ids) for ids in whole)
        sums = []
        for inputs, ids in zip(written, whole, strict=True):
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


END = "<end_of_utterance>"


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


# ---- the comparison -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Comparison:
    """How one kind went on one checkpoint: cases compared, and equal.

    Attributes:
        single: Equal alone.
        batch: In batches, of `batched`.
        slots: In slots, of `slotted`, which is 0 where no slot takes them.
    """

    checkpoint: str
    family: str
    kind: str
    cases: int
    single: int
    batch: int
    batched: int
    slots: int = 0
    slotted: int = 0

    def __str__(self) -> str:
        return (
            f"{self.checkpoint:22} {self.kind:9} single {self.single}/{self.cases} equal,"
            f" batch {self.batch}/{self.batched} equal, slots {self.slots}/{self.slotted} equal"
        )


def cases_for(family: TransformersFamily, kind: str) -> list[Case]:
    """The cases of a kind that a model of this style takes."""
    if family.card.style == "plain":
        return [case for case in CASES[kind] if case.plain is not None]
    return CASES[kind]


@torch.inference_mode()  # type: ignore[untyped-decorator]
def compare(
    family: TransformersFamily, reference: Reference, name: str, kind: str
) -> Comparison | None:
    """Compare all cases of a kind; None if the model's style has none."""
    shown = pictures()
    cases = cases_for(family, kind)
    if not cases:
        return None
    prepared = [_prepare(family, kind, case, shown) for case in cases]
    if kind == "rank":
        return _compare_ranked(family, reference, name, cases, prepared)
    expected = [reference.answer(case, shown) for case in cases]
    alone = [family.generator.generate_ids([item])[0] for item in prepared]
    batch = batched = 0
    for some in _like(family, prepared):
        for order in (some, some[::-1]):
            said = family.generator.generate_ids([prepared[index] for index in order])
            batched += len(order)
            batch += sum(a == expected[i] for a, i in zip(said, order, strict=True))
    single = sum(a == b for a, b in zip(alone, expected, strict=True))
    slots, slotted = _compare_slots(family, prepared, expected)
    kind_of = family.card.family
    return Comparison(name, kind_of, kind, len(cases), single, batch, batched, slots, slotted)


def _compare_slots(
    family: TransformersFamily, prepared: Sequence[Prepared], expected: Sequence[list[int]]
) -> tuple[int, int]:
    """All together, and backwards with no more than two at a time."""
    slots = family.slot_engine
    if slots is None:
        return 0, 0
    taken = [index for index, item in enumerate(prepared) if slots.accepts(item)]
    equal = 0
    for order, at_once in ((taken, len(taken)), (taken[::-1], 2)):
        said = ids_in_slots(slots, [prepared[index] for index in order], at_once)
        equal += sum(ids == expected[index] for ids, index in zip(said, order, strict=True))
    return equal, 2 * len(taken)


def _prepare(
    family: TransformersFamily, kind: str, case: Case, shown: Sequence[Image.Image]
) -> Prepared:
    """With the request's own images first and those of its examples after them, as they come."""
    return family.prepare(_request(kind, case), shown[: case.images])


def _like(family: TransformersFamily, prepared: Sequence[Prepared]) -> list[list[int]]:
    groups: dict[Any, list[int]] = {}
    for index, item in enumerate(prepared):
        key = (options_digest(item.request), family.architecture.batch_key(item.inputs))
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def _compare_ranked(
    family: TransformersFamily,
    reference: Reference,
    name: str,
    cases: Sequence[Case],
    prepared: Sequence[Prepared],
) -> Comparison:
    shown = pictures()
    equal = {1: 0, -1: 0}
    for step in equal:
        answers = family.generate(prepared[::step])[::step]
        for case, answer in zip(cases, answers, strict=True):
            expected = reference.scores(case, shown)
            pairs = zip(expected, answer.scores or (), strict=True)
            equal[step] += all(abs(a - b.logprob) < RANK_TOLERANCE for a, b in pairs)
    return Comparison(name, family.card.family, "rank", len(cases), equal[1], equal[-1], len(cases))


def load(folder: Path, name: str) -> TransformersFamily:
    """A checkpoint as the service loads it."""
    settings = EngineSettings(model=name, model_path=str(folder), max_new_tokens=64, slots=16)
    family = families.load(settings)
    assert isinstance(family, TransformersFamily)
    return family
