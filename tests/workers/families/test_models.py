"""Which models are served, and how; every answer of theirs is compared in test_exact.py."""

import json
import shutil
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import transformers

from db.vocabulary.errors import RequestError
from db.vocabulary.request_validation import validate_request
from tests.workers.families import cases, tiny
from workers import families
from workers.families.family import TransformersFamily
from workers.settings import EngineSettings

Load = Callable[[str], TransformersFamily]
#: Served by `generate`, with a word of the reason.
WITHOUT_SLOTS = {
    "qwen3.5": "linear_attention",
    "gemma4": "differ in their size",
    "ovis2": "features of their own",
    "mllama": "attend to images",
    "paligemma2": "attention (eager) that sdpa cannot compute",
    "blip-2": "put together in another way",
    "instructblip": "put together in another way",
}
ONE_IMAGE = ["blip-2", "instructblip"]


def refusal(folder: Path) -> str:
    """What is said to a model that cannot be loaded."""
    with pytest.raises(RequestError) as raised:
        families.load(EngineSettings(model="own", model_path=str(folder)))
    return str(raised.value)


def described(folder: Path, **config: Any) -> Path:
    """A folder with nothing but a configuration."""
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", tiny.CHECKPOINTS)
def test_a_model_is_served_by_continuous_batching_or_its_info_says_why_not(
    name: str, loaded_family: Load
) -> None:
    serving = loaded_family(name).card.serving

    assert serving
    if why := WITHOUT_SLOTS.get(name):
        assert (serving.path, serving.slots) == ("generate", 0)
        assert why in serving.why
    else:
        assert (serving.path, serving.why) == ("slots", "")


def test_a_model_that_changes_its_logits_after_the_lm_head_is_served_by_generate(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its likeliest tokens are the same, and those that are sampled are not."""
    model = transformers.LlavaForConditionalGeneration
    forward = model.forward

    @wraps(forward)
    def scaled(self: Any, *arguments: Any, **named: Any) -> Any:
        outputs = forward(self, *arguments, **named)
        outputs.logits = outputs.logits * 0.125
        return outputs

    monkeypatch.setattr(model, "forward", scaled)

    family = families.load(EngineSettings(model="own", model_path=str(checkpoint("llava"))))

    assert family.card.serving
    assert family.card.serving.path == "generate"
    assert "not the probabilities that generate gives" in family.card.serving.why


@pytest.mark.parametrize("name", ONE_IMAGE)
def test_a_model_that_was_made_for_one_image_takes_one(name: str, loaded_family: Load) -> None:
    info = loaded_family(name).card
    asked: dict[str, Any] = {"kind": "generate", "prompt": "What is this?"}
    example = {"image": "b", "text": "A dog"}

    validate_request({**asked, "images": ["a"]}, info)
    for images in ([], ["a", "b"]):
        with pytest.raises(RequestError, match=r"takes 1 image\(s\), not"):
            validate_request({**asked, "images": images}, info)
    with pytest.raises(RequestError, match="takes at most 0 examples"):
        validate_request({**asked, "images": ["a"], "examples": [example]}, info)


def test_a_model_that_says_nothing_without_an_image_refuses_a_text_alone(
    loaded_family: Load,
) -> None:
    info = loaded_family("paligemma").card
    asked = {"kind": "generate", "prompt": "Once upon a time"}

    with pytest.raises(RequestError, match=r"takes 1 to 8 image\(s\), not 0"):
        validate_request(asked, info)


@pytest.mark.parametrize("kind", families.REFUSED)
def test_an_architecture_that_is_not_served_is_refused_with_the_reason(
    kind: str, tmp_path: Path
) -> None:
    said = refusal(described(tmp_path, model_type=kind))

    assert said == f"model 'own' is a {kind!r}, which is not served: {families.REFUSED[kind]}"


def test_a_model_that_is_code_of_its_own_is_refused_and_a_converted_one_is_named(
    tmp_path: Path,
) -> None:
    own = {"AutoModel": "modeling_internvl_chat.InternVLChatModel"}

    said = refusal(described(tmp_path, model_type="internvl_chat", auto_map=own))

    assert "is a 'internvl_chat', which the installed transformers does not know" in said
    assert "code that comes with a checkpoint is never run" in said
    assert "often ends with -hf" in said


def test_a_processor_that_needs_torchvision_is_refused_with_the_name_of_the_package(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """LFM2-VL has no image processor of Pillow alone."""
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("llava"), folder)
    config = json.loads((folder / "config.json").read_text())
    described(folder, **{**config, "model_type": "lfm2_vl"})
    processor = {
        "processor_class": "Lfm2VlProcessor",
        "image_processor": {"image_processor_type": "Lfm2VlImageProcessor"},
    }
    (folder / "processor_config.json").write_text(json.dumps(processor))

    said = refusal(folder)

    assert said.startswith("the processor of model 'own' needs the package torchvision, which is")
    assert "install the version that belongs to your torch" in said


def test_a_small_image_of_a_single_token_is_answered_alone_and_among_others(
    loaded_family: Load,
) -> None:
    """Mistral 3 takes 28 by 28 pixels for a token; transformers itself fails on such an image."""
    family = loaded_family("mistral3")
    icon, picture = cases.pictures()[0].resize((16, 16)), cases.pictures()[1]
    asked = {"kind": "caption", "options": {"max_new_tokens": 6}}
    items = [family.prepare(asked, [image]) for image in (icon, picture, icon)]

    alone = [family.generate([item])[0].text for item in items]

    assert [answer.text for answer in family.generate(items)] == alone
    assert alone[0] == alone[2] != alone[1]
    assert items[0].tokens < items[1].tokens
