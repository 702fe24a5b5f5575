"""What loads on a CPU loads on a GPU by setting IDEFIQ_DEVICE, and never through host memory."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

# Before a GPU is pretended: it looks for one when it is imported.
import bitsandbytes  # noqa: F401
import pytest
import torch
import transformers.integrations.bitsandbytes  # noqa: F401

from db.vocabulary.errors import RequestError
from tests.workers.families import cases
from tests.workers.gpu.pretended import RedirectedGpu
from workers import families
from workers.families.checkpoints import DEMO
from workers.families.family import TransformersFamily
from workers.settings import EngineSettings


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> RedirectedGpu:
    """Two GPUs whose work the CPU does, inside `with gpu`."""
    return RedirectedGpu(monkeypatch, count=2)


def load(folder: Path, **settings: object) -> TransformersFamily:
    values = {"model": "m", "model_path": str(folder), "slots": 2, **settings}
    family = families.load(EngineSettings.model_validate(values))
    assert isinstance(family, TransformersFamily)
    return family


@pytest.mark.parametrize(("named", "device"), [("cuda", "cuda:0"), ("cuda:1", "cuda:1")])
def test_a_model_is_loaded_onto_the_gpu_that_is_named_weight_by_weight(
    named: str, device: str, gpu: RedirectedGpu, checkpoint: Callable[[str], Path]
) -> None:
    folder = checkpoint("idefics2")
    with gpu:
        family = load(folder, device=named)
    weights = len(list(family.loaded.model.parameters()))

    assert gpu.chosen == [torch.device(device)]
    assert family.loaded.device == torch.device(device)
    assert gpu.asked.keys() == {device}
    # Once each as it is read; `model.to` would have been once more for all.
    first = gpu.asked[device][: gpu.asked[device].index("zeros")]
    assert weights <= Counter(first)["to"] < 2 * weights
    assert family.card.serving
    assert (family.card.serving.path, family.card.device) == ("slots", named)


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_quantised_weights_are_made_on_the_gpu_that_is_named(
    quantize: str, gpu: RedirectedGpu
) -> None:
    with gpu:
        family = load(DEMO, device="cuda:1", quantize=quantize, dtype="bfloat16")
        item = family.prepare({"kind": "caption"}, cases.pictures()[:1])
        answered = family.generate([item])

    assert gpu.asked.keys() == {"cuda:1"}
    assert family.card.quantize == quantize
    assert answered[0].text


def test_a_missing_gpu_is_named_with_the_available_ones(
    gpu: RedirectedGpu, checkpoint: Callable[[str], Path]
) -> None:
    folder = checkpoint("idefics2")
    with gpu, pytest.raises(RequestError, match=r"no device 'cuda:2', only cuda:0 to cuda:1"):
        load(folder, device="cuda:2")


def test_a_device_of_no_known_name_is_a_mistake_of_the_settings() -> None:
    with pytest.raises(ValueError, match="device"):
        EngineSettings(device="gpu")
