"""What is told of an answer before its end is always a beginning of it."""

from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from tests.workers.conftest import Load
from tests.workers.families import tiny
from workers.families.base import Prepared
from workers.families.family import TransformersFamily

REQUEST = {"kind": "generate", "prompt": "Tell me about it.", "options": {"max_new_tokens": 24}}


def prepared(family: TransformersFamily, said: list[str], **options: Any) -> Prepared:
    request = {**REQUEST, "options": {"max_new_tokens": 24, **options}}
    item = family.prepare(request, [Image.new("RGB", (40, 30), "red")])
    return replace(item, on_text=said.append)


@pytest.mark.parametrize("name", sorted(tiny.CHECKPOINTS))
@pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 9}, {"stop": ["zz", "\n"]}])
def test_every_text_is_a_beginning_of_the_answer(
    loaded_family: Load, name: str, options: dict[str, Any]
) -> None:
    family = loaded_family(name)
    said: list[list[str]] = [[], [], []]
    batch = [prepared(family, texts, **options) for texts in said]
    batch[1] = replace(batch[1], on_text=None)

    answers = family.generate(batch)

    plain = family.generate([replace(item, on_text=None) for item in batch])
    assert [answer.text for answer in answers] == [answer.text for answer in plain]
    assert said[1] == []
    for answer, texts in zip(answers, said, strict=True):
        assert all(answer.text.startswith(text) for text in texts)
        assert texts == sorted(texts, key=len)
    assert said[0]


def test_beams_are_streamed_only_at_the_end(loaded_family: Load) -> None:
    said: list[str] = []
    family = loaded_family("idefics2")

    family.generate([prepared(family, said, num_beams=2)])

    assert said == []
