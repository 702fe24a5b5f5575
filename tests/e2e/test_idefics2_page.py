"""The examples of transformers' page about Idefics2, through the API, answered as there.

A small checkpoint with random weights stands for idefics2-8b-base and idefics2-8b.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from idefiq import Client
from tests.e2e.conftest import Env, Start
from tests.e2e.test_guide import PICTURES, uploads, with_references
from tests.servers import PATIENCE_SECONDS
from tests.workers.families import tiny
from tests.workers.families.reference import Reference

__all__ = ["uploads"]  # a fixture
NEW_YORK = (
    "In this image, we can see the city of New York, and more specifically the Statue of Liberty."
)
BRIDGE = "In which city is that bridge located?"
COMPARE = "What's the difference between these two images?"
OPTIONS = {"max_new_tokens": 24}


def as_the_page_does(reference: Reference, texts: list[str], images: list[list[int]]) -> list[str]:
    """Call the processor with a batch of prompts, and generate."""
    processor = reference.processor
    inputs = processor(
        text=texts,
        images=[[PICTURES[number] for number in some] for some in images],
        padding=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        generated = reference.model.generate(
            **inputs,
            bad_words_ids=[
                [processor.tokenizer.convert_tokens_to_ids(token)]
                for token in ("<image>", "<fake_token_around_image>")
            ],
            eos_token_id=[2, processor.tokenizer.convert_tokens_to_ids("<end_of_utterance>")],
            **OPTIONS,
        )
    new = generated[:, inputs["input_ids"].shape[1] :]
    said: list[str] = processor.batch_decode(new, skip_special_tokens=True)
    return [one.strip() for one in said]


def answered(client: Client, items: list[dict[str, Any]]) -> list[str | None]:
    """Submit items with the options of the page, and wait."""
    job = client.wait(
        client.submit(
            [{**item, "options": {**OPTIONS, **item.get("options", {})}} for item in items]
        ),
        seconds=PATIENCE_SECONDS,
    )
    results = sorted(client.results(job), key=lambda result: result.index)
    return [result.answer or result.error for result in results]


def test_texts_between_images_are_continued_by_the_base_model_as_on_the_page(
    start: Start, embedded: Env, uploads: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "idefics2-8b-base"
    tiny.idefics2(folder, chat=False)
    template = f"{{image}}{NEW_YORK}{{image}}In this image,"
    items = [
        {"kind": "generate", "images": [0, 1], "template": template},
        {"kind": "generate", "images": [2], "template": f"{BRIDGE}{{image}}"},
    ]

    with start("idefics2-8b-base", embedded, model_path=str(folder)) as (_, client):
        images = client.upload(uploads)
        said = answered(client, [with_references(item, images) for item in items])

    assert said == as_the_page_does(
        Reference(folder),
        [f"<image>{NEW_YORK}<image>In this image,", f"{BRIDGE}<image>"],
        [[0, 1], [2]],
    )


@pytest.mark.parametrize("splitting", [False, True])
def test_two_images_are_compared_in_a_turn_and_split_if_that_is_asked_for(
    splitting: bool, start: Start, embedded: Env, uploads: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "idefics2-8b"
    tiny.idefics2(folder)
    content = [
        {"type": "text", "text": COMPARE},
        {"type": "image", "index": 0},
        {"type": "image", "index": 1},
    ]
    item: dict[str, Any] = {
        "kind": "chat",
        "images": [0, 1],
        "messages": [{"role": "user", "content": content}],
        "options": {"image_detail": "high" if splitting else "auto"},
    }

    with start("idefics2-8b", embedded, model_path=str(folder)) as (_, client):
        images = client.upload(uploads)
        said = answered(client, [with_references(item, images)])

    reference = Reference(folder)
    reference.processor.image_processor.do_image_splitting = splitting
    prompt = reference.processor.apply_chat_template(item["messages"], add_generation_prompt=True)
    assert said == as_the_page_does(reference, [prompt], [[0, 1]])
