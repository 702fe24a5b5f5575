"""Questions of every kind, each as a request and as the documentation of a model writes it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

TOKENS = 10
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
            {"template": "{image}In this image, two cats play. {image}In this image,"},
            2,
            [0, "In this image, two cats play. ", 1, "In this image,"],
            [("user", [0, "In this image, two cats play. ", 1, "In this image,"])],
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


def request_of(kind: str, case: Case) -> dict[str, Any]:
    """The request of a case to the service."""
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
