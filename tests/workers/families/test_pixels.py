"""Bytes that become numbers on the device are the numbers that the processor would have made."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from tests.workers.conftest import Folder, Load
from tests.workers.families import cases
from workers import families
from workers.families.family import TransformersFamily
from workers.images import decode
from workers.settings import EngineSettings

FAMILIES = ["idefics-instruct", "idefics2", "idefics2-splitting", "idefics3"]


@pytest.mark.parametrize("name", FAMILIES)
def test_no_bit_differs(name: str, loaded_family: Load, checkpoint: Folder) -> None:
    family, shown = loaded_family(name), cases.pictures()[:2]
    processor = transformers.AutoProcessor.from_pretrained(checkpoint(name), backend="pil")
    request = {"kind": "generate", "prompt": "Compare"}

    pictures = family.prepare(request, shown).inputs.images
    nested = shown if name.startswith("idefics-") else [shown]
    expected = processor.image_processor(nested, return_tensors="pt")
    if not isinstance(expected, torch.Tensor):
        expected = expected["pixel_values"][0]

    assert family.loaded.pixels
    assert len(pictures) == len(expected)
    for picture, values in zip(pictures, expected, strict=True):
        _, height, width = picture.pixels.shape
        numbers = family.loaded.pixels.normalize(picture.pixels, torch.float32)
        assert torch.equal(numbers, values[:, :height, :width])
        assert picture.pixels.dtype == torch.uint8


@pytest.mark.parametrize("name", ["idefics-instruct", "idefics2"])
@pytest.mark.parametrize("size", [(640, 480), (300, 900), (2000, 50), (30, 40)])
def test_a_family_gives_the_size_at_which_it_encodes_an_image(
    name: str, size: tuple[int, int], loaded_family: Load
) -> None:
    family = loaded_family(name)
    [picture] = family.prepare({"kind": "caption"}, [Image.new("RGB", size)]).inputs.images
    _, height, width = picture.pixels.shape

    wanted = family.architecture.image_size(*size)

    assert np.allclose(wanted, (width, height), atol=1)


@pytest.mark.parametrize("name", ["idefics-instruct", "idefics2"])
def test_decoding_a_jpeg_at_a_fraction_changes_pixels_only_slightly(
    name: str, checkpoint: Callable[[str], Path], loaded_family: Load
) -> None:
    family = families.load(
        EngineSettings(model=name, model_path=str(checkpoint(name)), decoding="fast")
    )
    assert isinstance(family, TransformersFamily)
    data = io.BytesIO()
    cases.pictures()[0].resize((1600, 1200), Image.Resampling.BICUBIC).save(data, "JPEG")
    seen = [
        one.prepare({"kind": "caption"}, [decode(data.getvalue(), one.target_size)]).inputs.images[
            0
        ]
        for one in (loaded_family(name), family)
    ]

    whole, fast = (picture.pixels.int() for picture in seen)
    assert loaded_family(name).target_size is None
    assert 0 < (whole - fast).abs().float().mean() < 3
