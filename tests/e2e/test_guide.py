"""Every example of transformers' guide to IDEFICS, through the API, answered as there.

The prompts on the left are the guide's own, with our pictures; on the right is the request that
says the same. Small checkpoints with random weights stand for idefics-9b and -9b-instruct.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.e2e.conftest import Env, Start
from tests.servers import PATIENCE_SECONDS
from tests.workers.families import cases, tiny
from tests.workers.families.reference import Reference

PICTURES = cases.pictures()
#: A text, or the number of a picture.
Prompt = list[str | int]

CATEGORIES = ["animals", "vegetables", "city landscape", "cars", "office"]
EIFFEL = (
    "An image of the Eiffel Tower at night. Fun fact: the Eiffel Tower is the same height as an"
    " 81-storey building."
)
#: Section, prompt, options of generate, request.
GUIDE: list[tuple[str, Prompt, dict[str, int], dict[str, Any]]] = [
    ("Image captioning", [0], {"max_new_tokens": 10}, {"kind": "caption", "images": [0]}),
    (
        "Prompted image captioning",
        [1, "This is an image of "],
        {"max_new_tokens": 10},
        {"kind": "caption", "images": [1], "prompt": "This is an image of "},
    ),
    (
        "Few-shot prompting",
        [
            "User:",
            1,
            f"Describe this image.\nAssistant: {EIFFEL}\n",
            "User:",
            2,
            "Describe this image.\nAssistant:",
        ],
        {"max_new_tokens": 30},
        {"kind": "caption", "images": [2], "examples": [{"image": 1, "text": EIFFEL}]},
    ),
    (
        "Visual question answering",
        [
            "Instruction: Provide an answer to the question. Use the image to answer.\n",
            3,
            "Question: Where are these people and what's the weather like? Answer:",
        ],
        {"max_new_tokens": 20},
        {
            "kind": "vqa",
            "images": [3],
            "question": "Where are these people and what's the weather like?",
        },
    ),
    (
        "Image classification",
        [
            "Instruction: Classify the following image into a single category from the following"
            f" list: {CATEGORIES}.\n",
            4,
            "Category: ",
        ],
        {"max_new_tokens": 6},
        {"kind": "classify", "images": [4], "labels": CATEGORIES},
    ),
    (
        "Image-guided text generation",
        ["Instruction: Use the image to write a story. \n", 5, "Story: \n"],
        {"num_beams": 2, "max_new_tokens": 60},
        {
            "kind": "generate",
            "images": [5],
            "template": "Instruction: Use the image to write a story. \n{images}Story: \n",
        },
    ),
    *[
        (
            "Running inference in batch mode",
            [number, "This is an image of "],
            {"max_new_tokens": 10},
            {"kind": "caption", "images": [number], "prompt": "This is an image of "},
        )
        for number in (1, 3, 4)
    ],
]
IDEFIX = (
    "This picture depicts Idefix, the dog of Obelix in Asterix and Obelix. Idefix is running on"
    " the ground."
)
CONVERSATION: Prompt = [
    "User: What is in this image?",
    6,
    "<end_of_utterance>",
    f"\nAssistant: {IDEFIX}<end_of_utterance>",
    "\nUser:",
    7,
    "And who is that?<end_of_utterance>",
    "\nAssistant:",
]
ASKED = {
    "kind": "chat",
    "images": [6, 7],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is in this image?"},
                {"type": "image", "index": 0},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": IDEFIX}]},
        {
            "role": "user",
            "content": [
                {"type": "image", "index": 1},
                {"type": "text", "text": "And who is that?"},
            ],
        },
    ],
}


def as_the_guide_does(folder: Path, prompt: Prompt, options: dict[str, int]) -> str:
    """Call the processor and generate, in the guide's words."""
    reference = Reference(folder)
    processor, model = reference.processor, reference.model
    prompts = [[PICTURES[part] if isinstance(part, int) else part for part in prompt]]
    inputs = processor(text=prompts, add_end_of_utterance_token=False, return_tensors="pt")
    tokens = processor.tokenizer.get_vocab()
    bad_words_ids = [[tokens["<image>"]], [tokens["<fake_token_around_image>"]]]
    ends = [tokens["</s>"]]
    if "<end_of_utterance>" in tokens:
        ends.append(tokens["<end_of_utterance>"])
    with torch.inference_mode():
        generated = model.generate(
            **inputs, bad_words_ids=bad_words_ids, eos_token_id=ends, **options
        )
    new = generated[:, inputs["input_ids"].shape[1] :]
    said: str = processor.batch_decode(new, skip_special_tokens=True)[0]
    return said.strip()


@pytest.fixture
def uploads(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(len(PICTURES))]
    for path, picture in zip(paths, PICTURES, strict=True):
        picture.save(path)
    return paths


def with_references(request: dict[str, Any], images: list[str]) -> dict[str, Any]:
    asked = {**request, "images": [images[number] for number in request["images"]]}
    if "examples" in request:
        asked["examples"] = [
            {**example, "image": images[example["image"]]} for example in request["examples"]
        ]
    return asked


def test_every_example_for_the_base_model_is_answered_as_in_the_guide(
    start: Start, embedded: Env, uploads: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "idefics-9b"
    tiny.idefics(folder, instruct=False, resampler=True)

    with start("idefics-9b", embedded, model_path=str(folder)) as (_, client):
        images = client.upload(uploads)
        items = [
            {**with_references(request, images), "options": options}
            for _, _, options, request in GUIDE
        ]
        results = list(client.results(client.wait(client.submit(items), seconds=PATIENCE_SECONDS)))

    said = {result.index: result.answer or result.error for result in results}
    for number, (section, prompt, options, _) in enumerate(GUIDE):
        assert said[number] == as_the_guide_does(folder, prompt, options), section


def test_the_conversation_with_the_instruct_model_is_answered_as_in_the_guide(
    start: Start, embedded: Env, uploads: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "idefics-9b-instruct"
    tiny.idefics(folder, instruct=True, resampler=True)

    with start("idefics-9b-instruct", embedded, model_path=str(folder)) as (_, client):
        images = client.upload(uploads)
        item = {**with_references(ASKED, images), "options": {"max_new_tokens": 40, "echo": True}}
        [result] = list(
            client.results(client.wait(client.submit([item]), seconds=PATIENCE_SECONDS))
        )

    assert result.answer == as_the_guide_does(folder, CONVERSATION, {"max_new_tokens": 40})
    assert result.detail is not None
    picture = "<fake_token_around_image><image><fake_token_around_image>"
    assert result.detail["prompt"] == "<s>" + "".join(
        picture if isinstance(part, int) else part for part in CONVERSATION
    )
