"""`make bench-engine`: the engine against transformers as its documentation calls it, on a CPU.

    loop    one image at a time: processor, generate
    16, 64  batches of 16 and 64 as they come: processor with padding, generate
    engine  decoding and sizing in threads, pictures packed, prompts and answers in slots

All start from the same bytes and end with texts, which are compared. They run in turn, in one
sitting, and ratios are taken round by round. Expected before the first run, on the demonstration
model: 6 and 2 times, because its vision part, the same for all, takes half of the engine's time;
on the mid-size one: 3 and 1.5, because reading prompts costs the same for all.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import transformers

from benchmarks import workload
from benchmarks.alone import Alone
from benchmarks.documented import Documented
from benchmarks.figures import spread
from benchmarks.workload import Asked
from workers.families.checkpoints import DEMO
from workers.settings import EngineSettings

Arm = Callable[[Sequence[Asked]], list[str]]


def documented(folder: Path, size: int) -> Arm:
    """Batches of so many, as they come."""
    model = Documented(folder)

    def answer(asked: Sequence[Asked]) -> list[str]:
        said: list[str] = []
        for start in range(0, len(asked), size):
            batch = asked[start : start + size]
            ids = model.answer(
                [one.data for one in batch],
                [one.prompt for one in batch],
                most=max(one.tokens for one in batch),
                least=max(one.request["options"].get("min_new_tokens", 0) for one in batch),
            )
            cut = [row[: one.tokens] for row, one in zip(ids, batch, strict=True)]
            said += model.decode(cut)
        return said

    return answer


def arms(name: str, folder: Path) -> dict[str, Callable[[], Arm]]:
    """Return what each arm loads, and how it answers."""

    def engine() -> Arm:
        settings = EngineSettings(
            model=name, model_path=str(folder), max_new_tokens=64, features_bytes=0
        )
        alone = Alone(settings)
        return lambda asked: [answer.text for answer in alone.answer(asked)]

    return {
        "engine": engine,
        "loop": lambda: documented(folder, 1),
        "16": lambda: documented(folder, 16),
        "64": lambda: documented(folder, 64),
    }


def run(name: str, folder: Path, arm: str, count: int) -> None:
    """One arm in a process of its own: threads of one would take the cores of another's."""
    asked = list(workload.demo(count) if name == "demo" else workload.photos(count))
    answer = arms(name, folder)[arm]()
    answer(asked[:4])  # lazy set-up
    began = time.monotonic()
    said = answer(asked)
    seconds = time.monotonic() - began
    print(json.dumps({"rate": count / seconds, "said": said}), flush=True)
    os._exit(0)


def measure(name: str, count: int, rounds: int) -> dict[str, Any]:
    """Run all arms in turn."""
    rates: dict[str, list[float]] = {}
    said: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = DEMO if name == "demo" else Path(temporary)
        if name == "mid":
            workload.mid(folder)
        for _ in range(rounds):
            for arm in arms(name, folder):
                command = [sys.executable, "-m", "benchmarks.engine", "--arm", arm]
                command += ["--models", name, "--items", str(count), "--folder", str(folder)]
                output = subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL)
                told = json.loads(output.splitlines()[-1])
                rates.setdefault(arm, []).append(told["rate"])
                said[arm] = told["said"]
    ratios = {
        arm: spread([a / b for a, b in zip(rates["engine"], rates[arm], strict=True)])
        for arm in rates.keys() - {"engine"}
    }
    return {
        "model": name,
        "items": count,
        "items_per_second": rates,
        "ratio": {arm: ratios[arm] for arm in ("loop", "16", "64")},
        "equal": {
            arm: sum(a == b for a, b in zip(said["engine"], said[arm], strict=True)) for arm in said
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The engine ÷ transformers as documented.")
    parser.add_argument("--models", nargs="+", default=["demo", "mid"])
    parser.add_argument("--items", type=int, nargs="+", default=[192, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("build/bench-engine.json"))
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    if arguments.arm:
        run(arguments.models[0], arguments.folder, arguments.arm, arguments.items[0])
    figures = [
        measure(name, count, arguments.rounds)
        for name, count in zip(arguments.models, arguments.items, strict=True)
    ]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(figures, indent=2))
    for one in figures:
        ratios = ", ".join(
            f"{arm} {r['median']:.2f} ({r['min']:.2f} – {r['max']:.2f})"
            for arm, r in one["ratio"].items()
        )
        print(
            f"bench-engine {one['model']}: engine ÷ {ratios}, n {arguments.rounds};"
            f" equal of {one['items']}: {one['equal']}"
        )


if __name__ == "__main__":
    main()
