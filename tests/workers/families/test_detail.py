"""How finely an image is seen, by request."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.workers.answering import ids_in_slots
from tests.workers.families.cases import CASES, TOKENS
from tests.workers.families.reference import Reference
from workers import families
from workers.families.base import Prepared
from workers.families.family import TransformersFamily
from workers.settings import EngineSettings

Load = Callable[[str], TransformersFamily]
Refer = Callable[[str], Reference]
#: By checkpoint, the attribute of its image processor that cuts large images into pieces.
IN_PIECES = {
    "idefics2": "do_image_splitting",
    "idefics3": "do_image_splitting",
    "internvl": "crop_to_patches",
    "gemma3": "do_pan_and_scan",
}


def photo(width: int = 900, height: int = 300) -> Image.Image:
    """A picture larger than what is seen at low detail."""
    noise = np.random.default_rng(3).integers(0, 256, (8, 24, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def asked(family: TransformersFamily, detail: str | None) -> Prepared:
    """A caption of the picture at a detail."""
    options: dict[str, Any] = {"max_new_tokens": TOKENS}
    if detail:
        options["image_detail"] = detail
    return family.prepare({"kind": "caption", "options": options}, [photo()])


@pytest.mark.parametrize("detail", ["low", "high"])
@pytest.mark.parametrize("name", IN_PIECES)
def test_an_answer_at_a_detail_is_that_of_a_processor_set_to_it(
    name: str, detail: str, loaded_family: Load, reference: Refer, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, called = loaded_family(name), reference(name)
    item = asked(family, detail)
    monkeypatch.setattr(called.processor.image_processor, IN_PIECES[name], detail == "high")
    if IN_PIECES[name] in getattr(called.processor, "images_kwargs", {}):
        monkeypatch.setitem(called.processor.images_kwargs, IN_PIECES[name], detail == "high")
    shown = photo()
    if detail == "low":
        shown = ImageOps.contain(shown, (512, 512), Image.Resampling.LANCZOS)

    assert family.generator.generate_ids([item]) == [called.answer(CASES["caption"][0], [shown])]


@pytest.mark.parametrize("name", [*IN_PIECES, "llava", "qwen2.5-vl", "idefics-instruct"])
def test_items_of_different_details_are_answered_together(name: str, loaded_family: Load) -> None:
    family = loaded_family(name)
    assert family.slot_engine
    items = [asked(family, detail) for detail in (None, "low", "high", "auto")]

    alone = [family.generator.generate_ids([item])[0] for item in items]

    assert ids_in_slots(family.slot_engine, items, 4) == alone
    assert [family.generate([item])[0].text for item in items] == [
        answer.text for answer in family.generate(items)
    ]
    assert alone[0] == alone[3]


@pytest.mark.parametrize("name", IN_PIECES)
def test_low_detail_takes_fewer_tokens_than_high(name: str, loaded_family: Load) -> None:
    low, high = (asked(loaded_family(name), detail).tokens for detail in ("low", "high"))

    assert low < high


def test_labels_are_ranked_at_a_detail_too(loaded_family: Load) -> None:
    family = loaded_family("idefics3")
    request = {"kind": "classify", "labels": ["a cat", "a dog"], "method": "rank"}

    low, auto = (
        family.prepare({**request, "options": {"image_detail": detail}}, [photo()])
        for detail in ("low", "auto")
    )

    assert low.tokens < auto.tokens
    assert family.generate([low])[0].scores != family.generate([auto])[0].scores


def test_no_request_splits_images_where_the_operator_has_turned_that_off(
    checkpoint: Callable[[str], Path],
) -> None:
    settings = EngineSettings(
        model="m", model_path=str(checkpoint("idefics3")), image_splitting="off", slots=4
    )
    family = families.load(settings)
    assert isinstance(family, TransformersFamily)

    assert asked(family, "high").tokens == asked(family, None).tokens


def test_a_request_at_one_detail_leaves_the_processor_as_it_was(loaded_family: Load) -> None:
    family = loaded_family("idefics3")
    before = asked(family, None).tokens

    asked(family, "low")

    assert asked(family, None).tokens == before
