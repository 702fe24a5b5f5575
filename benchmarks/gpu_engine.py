"""`python -m benchmarks.gpu_engine`: full-size models with random weights on a GPU, in ten minutes.

Longer than 300 lines because it compares the engine with the documented loop and with itself less
one part, on one loaded model.

    loop     one image at a time, as the documentation has it
    16, 64   batches of 16 and 64, padded
    engine   threads, packed vision encoder, continuous batching, CUDA graphs
    without  the engine less one thing each: CUDA graphs, asynchronous readback, many slots

Pictures are real JPEGs in memory, decoded by every arm; answers have lengths from a table, for
random weights never end one. Printed are images per second (median of the runs), how much of the
chip's attainable arithmetic that is, where the time goes, peak memory, and whether answers in a
crowd are those alone. `--size small --device cpu` runs all of it on a CPU, to see that it works.
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

from benchmarks import flops, workload
from benchmarks.alone import Alone
from benchmarks.full_size import SIZES, Size, build, prepare_folder
from benchmarks.workload import COCO, Asked
from db.vocabulary.errors import RequestError
from workers.families import batching, checkpoints, loading, selfcheck
from workers.settings import EngineSettings

#: Pixel sizes by mix; "web" is spread evenly over the logarithm of the sides.
MIXES: dict[str, tuple[tuple[int, int], ...]] = {
    "980": ((980, 980),),
    "4:3": ((980, 735), (735, 980)),
    "coco": COCO,
    "web": (
        (300, 400),
        (500, 333),
        (800, 600),
        (640, 960),
        (1200, 900),
        (1600, 1067),
        (3000, 2000),
    ),
}
#: Images per second that are a pass and a stretch on one H200.
GOALS = {
    "980": (36, 45),
    "4:3": (50, 62),
    "coco": (95, 130),
    "web": (60, 80),
    "idefics": (200, 390),
}


class Documented:
    """transformers, called as its documentation calls it."""

    def __init__(self, family: str, folder: Path, model: Any, device: str) -> None:
        self._family, self._model, self._device = family, model, device
        kind = (
            transformers.Idefics2Processor
            if family == "idefics2"
            else transformers.IdeficsProcessor
        )
        self._processor = kind.from_pretrained(folder, backend="pil")
        self._processor.tokenizer.padding_side = "left"

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def answer(self, asked: Sequence[Asked], size: int) -> list[list[int]]:
        """Batches of so many, as they come."""
        said: list[list[int]] = []
        for start in range(0, len(asked), size):
            some = asked[start : start + size]
            images = [Image.open(io.BytesIO(one.data)).convert("RGB") for one in some]
            inputs = self._inputs(images).to(self._device)
            inputs["pixel_values"] = inputs["pixel_values"].to(self._model.dtype)
            most = max(one.tokens for one in some)
            ids = self._model.generate(
                **inputs, max_new_tokens=most, min_new_tokens=most, do_sample=False
            )
            new = ids[:, inputs["input_ids"].shape[1] :].tolist()
            said += [row[: one.tokens] for row, one in zip(new, some, strict=True)]
        return said

    def _inputs(self, images: list[Image.Image]) -> Any:
        if self._family == "idefics":
            prompts = [
                ["User:", image, "Describe.<end_of_utterance>", "\nAssistant:"] for image in images
            ]
            return self._processor(text=prompts, padding=True, return_tensors="pt")
        content = [{"type": "image"}, {"type": "text", "text": "Describe the image."}]
        prompt = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        return self._processor(
            text=[prompt] * len(images),
            images=[[image] for image in images],
            padding=True,
            return_tensors="pt",
        )


class Engine:
    """The engine over a model that is already there."""

    def __init__(self, family: str, folder: Path, model: Any, settings: dict[str, Any]) -> None:
        self.checks = ""
        with _given(model, self):
            self.alone = Alone(
                EngineSettings(
                    model=family,
                    model_path=str(folder),
                    max_new_tokens=64,
                    features_bytes=0,
                    **settings,
                )
            )
        self.family: Any = self.alone.family
        if self.family.slot_engine is None:
            raise SystemExit(f"no slots: {self.family.card.serving}")

    def without(self, **changes: Any) -> None:
        """Rebuild the slots: fewer, without CUDA graphs, or without asynchronous readback."""
        loaded, architecture = self.family.loaded, self.family.architecture
        batch_engine = self.family.slot_engine.engine
        config = replace(
            batch_engine.config, **{k: v for k, v in changes.items() if k != "cuda_graphs"}
        )
        made = batching.build(loaded, architecture, architecture.text_decoder(), config)
        if changes.get("cuda_graphs") is False:
            made.engine.graphs = None
        # The device holds the batcher itself, so its parts are replaced.
        vars(self.family.slot_engine).update(vars(made))
        self.alone.use(made.count)


@contextmanager
def _given(model: Any, engine: Engine) -> Iterator[None]:
    """Make a family load this model; a failed self-check of random weights is recorded."""
    load, fetch, run = loading.load_model, checkpoints.fetch, selfcheck.run

    def lenient(*parts: Any) -> Any:
        try:
            return run(*parts)
        except RequestError as error:
            engine.checks = str(error)
            return None

    loading.load_model = lambda where, settings: model
    checkpoints.fetch = lambda settings: Path(settings.model_path)
    selfcheck.run = lenient
    try:
        yield
    finally:
        loading.load_model, checkpoints.fetch, selfcheck.run = load, fetch, run


class Stages:
    """Time of each stage of an engine; each stage waits for the device, so the whole is slower."""

    def __init__(self, engine: Engine, device: str) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device
        batch_engine = engine.family.slot_engine.engine
        for owner, name, stage in (
            (batch_engine, "encode_images", "vision"),
            (batch_engine.decoder, "prefill", "prefill"),
            (batch_engine, "launch", "decode"),
        ):
            setattr(owner, name, self._timed(getattr(owner, name), stage))

    def _timed(self, call: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            _wait(self._device)
            began = time.monotonic()
            result = call(*arguments)
            _wait(self._device)
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - began
            return result

        return timed


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _rate(call: Callable[[], Any], count: int, runs: int, device: str) -> dict[str, float]:
    rates = []
    for _ in range(runs):
        _wait(device)
        began = time.monotonic()
        call()
        _wait(device)
        rates.append(count / (time.monotonic() - began))
    return {"median": statistics.median(rates), "min": min(rates), "max": max(rates)}


def measure(family: str, size: Size, mixes: Sequence[str], arguments: Any) -> dict[str, Any]:
    """All arms of one model on some mixes."""
    device, dtype = arguments.device, getattr(torch, arguments.dtype)
    with tempfile.TemporaryDirectory() as name:
        config = prepare_folder(Path(name), family, size)
        model = build(config, device, dtype)
        documented = Documented(family, Path(name), model, device)
        figures: dict[str, Any] = {"family": family, "mixes": {}}
        loops = {
            mix: {
                arm: _documented(documented, mix, arm, size.images[arm], arguments)
                for arm in arguments.arms
            }
            for mix in mixes
        }
        engine = Engine(
            family,
            Path(name),
            model,
            {"device": device, "dtype": arguments.dtype, "load_threads": arguments.threads},
        )
    figures["serving"] = engine.family.card.serving.model_dump()
    figures["checks"] = engine.checks
    for mix in mixes:
        figures["mixes"][mix] = {"documented": loops[mix]} | _engine(
            engine, family, config, mix, size.images["engine"], arguments
        )
    figures["without"] = _ablations(engine, mixes[-1], size.images["engine"], arguments)
    engine.alone.close()
    return figures


def _documented(
    documented: Documented, mix: str, arm: str, count: int, arguments: Any
) -> dict[str, float]:
    asked = list(workload.photos(count, MIXES[mix]))
    at_once = 1 if arm == "loop" else int(arm)
    documented.answer(asked[: min(at_once, 4)], at_once)
    return _rate(lambda: documented.answer(asked, at_once), count, 1, arguments.device)


def _engine(
    engine: Engine, family: str, config: Any, mix: str, count: int, arguments: Any
) -> dict[str, Any]:
    asked = list(workload.photos(count, MIXES[mix]))
    on_gpu = arguments.device.startswith("cuda")
    engine.alone.answer(asked)  # records the steps
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    used = time.process_time()
    rate = _rate(lambda: engine.alone.answer(asked), count, arguments.runs, arguments.device)
    used = (time.process_time() - used) / (count * arguments.runs)
    item = engine.family.prepare(asked[0].request, [Image.new("RGB", MIXES[mix][0])])
    cost = statistics.fmean(
        _cost(engine, family, config, one).all(one.tokens) for one in asked[:64]
    )
    few = asked[: min(count, 64)]
    crowd = [answer.text for answer in engine.alone.answer(few)]
    alone = [engine.alone.answer([one])[0].text for one in few[:: max(1, len(few) // 16)]]
    told: dict[str, Any] = {
        "images_per_second": rate,
        "tera_operations_per_image": cost / 1e12,
        "fraction_of_attainable": rate["median"] * cost / flops.H200_FLOPS,
        "goal": GOALS.get(family if family == "idefics" else mix),
        "cpu_seconds_per_image": used,
        "prompt_tokens": item.tokens,
        "same_alone_and_in_a_crowd": [
            sum(a == b for a, b in zip(alone, crowd[:: max(1, len(few) // 16)], strict=True)),
            len(alone),
        ],
    }
    if on_gpu:
        told["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return told


def _cost(engine: Engine, family: str, config: Any, asked: Asked) -> flops.Cost:
    with Image.open(io.BytesIO(asked.data)) as image:
        item = engine.family.prepare(asked.request, [image.convert("RGB")])
    [picture] = item.inputs.images
    patches = picture.pixels[0].numel() // engine.family.loaded.patch_pixels
    seen = item.tokens + asked.tokens // 2
    if family == "idefics":
        return flops.idefics(config, 1, item.tokens, seen)
    return flops.idefics2(config, patches, item.tokens, seen)


def _ablations(engine: Engine, mix: str, count: int, arguments: Any) -> dict[str, Any]:
    """The engine less one thing, on one mix; and where its time goes."""
    asked = list(workload.photos(count, MIXES[mix]))
    config = engine.family.slot_engine.engine.config
    changes: dict[str, dict[str, Any]] = {
        "nothing": {},
        "CUDA graphs": {"cuda_graphs": False},
        "asynchronous readback": {"async_readback": False},
        "many slots": {"slots": min(16, config.slots)},
        "packed prefill": {"batch_invariant": True},
    }
    rates: dict[str, Any] = {}
    for name, change in changes.items():
        engine.without(
            **{
                "slots": config.slots,
                "async_readback": config.async_readback,
                "batch_invariant": False,
                **change,
            }
        )
        engine.alone.answer(asked[: count // 4])
        rates[name] = _rate(lambda: engine.alone.answer(asked), count, 1, arguments.device)[
            "median"
        ]
    engine.without(slots=config.slots, async_readback=config.async_readback, batch_invariant=False)
    stages = Stages(engine, arguments.device)
    engine.alone.answer(asked)
    return {"mix": mix, "images_per_second": rates, "seconds_by_stage": stages.seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=list(SIZES), default="full")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--families", nargs="+", default=["idefics2", "idefics"])
    parser.add_argument("--mixes", nargs="+", default=["980", "4:3", "web", "coco"])
    parser.add_argument("--arms", nargs="*", default=["loop", "16", "64"])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=14)
    parser.add_argument("--out", type=Path, default=Path("build/gpu-engine.json"))
    arguments = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    figures = []
    for family in arguments.families:
        mixes = arguments.mixes if family == "idefics2" else ["coco"]
        figures.append(measure(family, SIZES[arguments.size][family], mixes, arguments))
        print(json.dumps(figures[-1], indent=2), flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(figures, indent=2))
    for one in figures:
        for mix, told in one["mixes"].items():
            rate = told["images_per_second"]["median"]
            over = {arm: rate / slow["median"] for arm, slow in told["documented"].items()}
            ratios = ", ".join(f"{arm} {ratio:.2f}" for arm, ratio in over.items())
            print(
                f"gpu-engine {one['family']} {mix}: {rate:.1f} images/s (goal {told['goal']}),"
                f" {told['fraction_of_attainable']:.2f} of attainable, engine ÷ {ratios}"
            )


if __name__ == "__main__":
    main()
