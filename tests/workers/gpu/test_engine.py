"""The engine's own code on a GPU that is not there: no mix of devices, no waiting within a step."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from tests.workers.families import cases
from tests.workers.gpu.pretended import FakeGpu, load_guard
from workers.decoding import attention, batch_engine, cuda_graphs
from workers.decoding.kv_cache import SlotConfig
from workers.families import batching
from workers.families.base import Prepared
from workers.families.batching import ContinuousBatcher
from workers.families.family import TransformersFamily

SLOTS = 4
#: One architecture of each decoder: images from outside the text, and among its tokens.
ALWAYS = ["idefics-base", "idefics2"]
#: All others, in `make test-families`.
GRID = ["idefics-base-resampler", "idefics2-splitting", "idefics3", "smolvlm"]


@pytest.fixture(scope="session")
def guard(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let torch make tensors on a GPU that is not there."""
    load_guard(tmp_path_factory.mktemp("guard"))


@pytest.fixture
def gpu(guard: None, monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """A GPU of shapes, dtypes and devices, with stand-ins for what needs a driver."""
    empty_like = torch.empty_like

    def unpinned(tensor: torch.Tensor, **options: Any) -> torch.Tensor:
        options.pop("pin_memory", None)
        return empty_like(tensor, **options)

    class Event:
        def record(self) -> None: ...
        def synchronize(self) -> None: ...

    fake = FakeGpu()

    def run(_: object, seen: int, compute: Callable[[], Any]) -> Any:
        with fake.during("captured"):
            return compute()

    def read(copied: batch_engine.AsyncCopy) -> list[Any]:
        """What no tensor without numbers can say: a token that is no end, and its logprob."""
        here = copied.host
        return [5 if here.dtype == torch.long else -1.0] * len(here)

    monkeypatch.setattr(torch, "empty_like", unpinned)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(cuda_graphs.CudaGraphs, "run", run)
    monkeypatch.setattr(batch_engine.AsyncCopy, "wait", read)
    return fake


def on_gpu(folder: Path, dtype: torch.dtype) -> Any:
    """The model of a checkpoint with all its weights on the fake GPU; they share as they did."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(
            AutoConfig.from_pretrained(folder), dtype=dtype
        ).eval()
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
                    is_weight = isinstance(tensor, torch.nn.Parameter)
                    made[id(tensor)] = (
                        torch.nn.Parameter(empty, requires_grad=False) if is_weight else empty
                    )
                held[name] = made[id(tensor)]
    return model


def items(family: TransformersFamily) -> list[Prepared]:
    """Short and long prompts, shared examples, several images and none, greedy and sampled."""
    shown = cases.pictures()

    def asked(kind: str, pictures: list[Any], tokens: int = 4, **more: Any) -> Prepared:
        options = {"max_new_tokens": tokens, **more.pop("options", {})}
        return family.prepare({"kind": kind, **more, "options": options}, pictures)

    shot = [{"image": "a", "text": "a red wall and a very long text " * 3}]
    sampled = {"do_sample": True, "top_p": 0.9, "seed": 3}
    return [
        *(asked("caption", [shown[number]], 5) for number in range(3)),
        asked("vqa", shown[3:5], question="Which?", options={"repetition_penalty": 1.2}),
        *(asked("caption", [shown[number], shown[6]], examples=shot) for number in (0, 1)),
        asked("generate", [], prompt="x", options=sampled),
    ]


def engine_of(family: TransformersFamily, model: Any) -> ContinuousBatcher:
    """The slots of a family whose model is on the fake GPU."""
    loaded = replace(family.loaded, model=model, device=torch.device("cuda"))
    architecture = type(family.architecture)(loaded)
    text_decoder = architecture.text_decoder()
    assert not isinstance(text_decoder, str)
    attention.install(model)
    room = SlotConfig(
        slots=SLOTS,
        length=512,
        static_shapes=True,
        batch_invariant=False,
        async_readback=True,
        features_bytes=2**20,
        dtype=model.dtype,
        device=loaded.device,
    )
    return batching.build(loaded, architecture, text_decoder, room)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.bfloat16) for name in ALWAYS),
        *(pytest.param(name, torch.bfloat16, marks=pytest.mark.grid) for name in GRID),
        *(pytest.param(name, torch.float32, marks=pytest.mark.grid) for name in (*ALWAYS, *GRID)),
    ],
    ids=str,
)
def test_items_are_answered_on_a_gpu_without_mixing_devices_or_waiting_in_a_step(
    name: str,
    dtype: torch.dtype,
    gpu_family: Callable[[str], TransformersFamily],
    gpu: FakeGpu,
    checkpoint: Callable[[str], Path],
) -> None:
    family = gpu_family(name)
    waiting = items(family)
    with gpu.running():
        engine = engine_of(family, on_gpu(checkpoint(name), dtype))
        held = answered = steps = 0
        while (waiting or held) and steps < 60:
            with gpu.during("prefill"):
                some, waiting = waiting[: SLOTS - held], waiting[SLOTS - held :]
                over = engine.admit(some) if some else []
            with gpu.during("step"):
                over += engine.decode_step()
            held += len(some) - len(over)
            answered += len(over)
            steps += 1

    assert answered == 7
    assert gpu.faults == []
    assert min(gpu.operations[phase] for phase in ("prefill", "step", "captured")) > 0


def test_the_fake_gpu_notes_what_waits_within_a_step_and_what_cannot_be_captured(
    gpu: FakeGpu,
) -> None:
    with gpu.running():
        tensor = torch.zeros(3, device="cuda")
        with gpu.during("step"):
            tensor.to("cpu")
            tensor.to("cpu", non_blocking=True)
        with gpu.during("captured"):
            tensor.to("cpu", non_blocking=True)
        with pytest.raises(RuntimeError, match="device"):
            tensor + torch.zeros(3)

    assert [fault.split(" ")[0] for fault in gpu.faults] == ["step:", "captured:"]
