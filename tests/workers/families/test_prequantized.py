"""Checkpoints that are quantized already, as they are found on the hub."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from db.vocabulary.errors import RequestError
from tests.workers.families import tiny
from tests.workers.families.cases import CASES, pictures
from tests.workers.families.reference import Reference
from workers import families
from workers.families.family import TransformersFamily
from workers.operator import fit
from workers.settings import EngineSettings

Quantized = Callable[[dict[str, Any]], Path]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose sizes are multiples of 64, as 4-bit weights want them."""
    folder = tmp_path_factory.mktemp("wide") / "model"
    tiny.idefics2(folder, width=128)
    return folder


@pytest.fixture
def labelled(wide: Path, tmp_path: Path) -> Quantized:
    """The checkpoint, said to be quantized in a way."""

    def folder(quantization: dict[str, Any]) -> Path:
        shutil.copytree(wide, tmp_path / "model")
        config = json.loads((wide / "config.json").read_text())
        labelled = {**config, "quantization_config": quantization}
        (tmp_path / "model" / "config.json").write_text(json.dumps(labelled))
        return tmp_path / "model"

    return folder


def settings(folder: Path, **said: Any) -> EngineSettings:
    return EngineSettings(model="own", model_path=str(folder), slots=4, **said)


def refusal(folder: Path, **said: Any) -> str:
    """What is said to a checkpoint that cannot be loaded."""
    with pytest.raises(RequestError) as raised:
        families.load(settings(folder, **said))
    return str(raised.value)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_four_bit_weights_that_a_checkpoint_holds_are_used_as_they_are(
    kind: str, wide: Path, tmp_path: Path
) -> None:
    own = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=kind, llm_int8_skip_modules=["lm_head"]
    )
    model = transformers.AutoModelForImageTextToText.from_pretrained(
        wide, quantization_config=own, device_map={"": "cpu"}, dtype=torch.float32
    )
    shutil.copytree(wide, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "model")

    family = families.load(settings(tmp_path / "model", dtype="float32"))

    assert isinstance(family, TransformersFamily)
    assert family.card.quantize == kind
    assert family.card.serving
    assert family.card.serving.path == "slots"
    case, reference = CASES["vqa"][0], Reference(tmp_path / "model")
    asked = {"kind": "vqa", **case.request, "options": {"max_new_tokens": 10}}
    item = family.prepare(asked, pictures()[:1])
    assert family.generator.generate_ids([item])[0] == reference.answer(case, pictures())


def test_fp4_is_a_choice_beside_nf4(wide: Path) -> None:
    family = families.load(settings(wide, quantize="fp4"))

    assert isinstance(family, TransformersFamily)
    kinds = {
        layer.weight.quant_type
        for layer in family.loaded.model.modules()
        if type(layer).__name__ == "Linear4bit"
    }
    assert kinds == {"fp4"}
    assert family.card.quantize == "fp4"


def test_weights_that_are_quantized_are_not_quantized_again(labelled: Quantized) -> None:
    said = refusal(labelled({"quant_method": "awq", "bits": 4}), quantize="nf4")

    assert said == (
        "model 'own' is quantized already (awq), and its weights cannot be quantized again:"
        " unset IDEFIQ_QUANTIZE"
    )


@pytest.mark.parametrize(("method", "package"), [("awq", "gptqmodel"), ("gptq", "optimum")])
def test_a_quantization_whose_package_is_missing_is_refused_with_its_name(
    method: str, package: str, labelled: Quantized
) -> None:
    said = refusal(labelled({"quant_method": method, "bits": 4}))

    assert said.startswith(f"model 'own' is quantized ({method}), which cannot be used here: ")
    assert package in said


def test_a_quantization_that_transformers_does_not_know_is_refused_and_not_skipped(
    labelled: Quantized,
) -> None:
    said = refusal(labelled({"quant_method": "own"}))

    assert said == "model 'own' is quantized in a way that transformers does not know: own"


def test_a_text_model_that_is_quantized_alone_is_recognised(
    labelled: Quantized, tmp_path: Path
) -> None:
    folder = labelled({})
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["quantization_config"] = {"quant_method": "awq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))

    assert "is quantized already (awq)" in refusal(folder, quantize="nf4")
    assert "is quantized (awq), which cannot be used here" in refusal(folder)


def test_weights_in_a_form_that_cannot_be_counted_are_not_said_to_fit(
    labelled: Quantized, wide: Path
) -> None:
    assert fit.weights_bytes(labelled({"quant_method": "gptq"}), settings(wide)) is None
    assert fit.weights_bytes(wide, settings(wide)) is not None
