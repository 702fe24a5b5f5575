"""`make bench-service`: the whole service ÷ the engine alone, and every process's peak memory.

    alone     stored bytes ─▶ decode and prepare (threads, ahead) ─▶ slots
    service   submit ─▶ record ─▶ claim ─▶ the same ─▶ complete ─▶ job finished, as a client sees it

Both arms start from the same bytes in the same blob store, decode them, and cache nothing; the
images were checked by intake before. They run in turn, A B A B, in one sitting, and the ratio is
taken pair by pair. One item at a time is measured apart: what a job of one item takes beyond the
model's own time for it. Expected before the first run: 0.90, because two cores do everything.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import workload
from benchmarks.figures import spread
from db.blobs.folder import FolderStore
from db.blobs.store import image_key
from idefiq import Client
from idefiq.up import Stack
from workers.demo.draw import draw
from workers.families.checkpoints import DEMO

#: Owner of keyless requests in a record that was made by this run.
OWNER = 1
#: Items that are also asked one at a time.
SINGLES = 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stored:
    """A caption of a picture in a blob store."""

    store: FolderStore
    digest: str
    request: dict[str, Any]

    def read(self) -> bytes:
        """From the store, each time."""
        return self.store.get(image_key(OWNER, self.digest))


#: Items of a job, as the client sends them.
Items = list[dict[str, Any]]


def alone(model: Path, folder: Path, items: Items) -> dict[str, float]:
    """Rate of an engine without a service around it, and seconds of one item by itself."""
    from benchmarks.alone import Alone
    from workers.settings import EngineSettings

    settings = EngineSettings(
        model="model", model_path=str(model), max_new_tokens=64, features_bytes=0
    )
    engine, store = Alone(settings), FolderStore(folder)
    asked = [
        Stored(store, item["images"][0].removeprefix("blob:"), {"kind": "caption", **item})
        for item in items
    ]
    engine.answer(asked[:4])  # lazy set-up
    began = time.monotonic()
    engine.answer(asked)
    rate = len(asked) / (time.monotonic() - began)
    single = statistics.median(_seconds(partial(engine.answer, [one])) for one in _few(asked))
    engine.close()
    return {"rate": rate, "single": single}


def in_service(client: Client, items: Items) -> dict[str, float]:
    """Time the service: from the submission to the end of the job."""

    def answer(some: Items) -> None:
        job = client.wait(client.submit(some))
        if job.counts.succeeded != len(some):
            raise SystemExit(f"the job ended with {job.counts}")

    rate = len(items) / _seconds(lambda: answer(items))
    single = statistics.median(_seconds(partial(answer, [one])) for one in _few(items))
    return {"rate": rate, "single": single}


def _few(some: Sequence[T]) -> Sequence[T]:
    return some[:: max(1, len(some) // SINGLES)]


def _seconds(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def peak_mebibytes(stack: Stack) -> dict[str, int]:
    """Peak resident memory of each process of the service, children by their parent's name."""
    peaks = {}
    for name, pid in processes(stack).items():
        status = Path(f"/proc/{pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
        peaks[name] = int(line.split()[1]) // 1024
    return peaks


def processes(stack: Stack) -> dict[str, int]:
    """Process ids of a service by name, children by their parent's."""
    found = {}
    for service in stack.services:
        if service.process is None:
            continue
        for number, pid in enumerate([service.process.pid, *_children(service.process.pid)]):
            found[service.name if number == 0 else f"{service.name} child {number}"] = pid
    return found


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def main() -> None:
    parser = argparse.ArgumentParser(description="The whole service ÷ the engine alone.")
    parser.add_argument("--models", nargs="+", default=["demo", "mid"])
    parser.add_argument("--items", type=int, nargs="+", default=[1_500, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--alone", type=Path, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("build/bench-service.json"))
    arguments = parser.parse_args()
    if arguments.alone:
        model, blobs = arguments.alone
        print(json.dumps(alone(model, blobs, json.load(sys.stdin))))
        return
    told = []
    for model, items in zip(arguments.models, arguments.items, strict=True):
        with tempfile.TemporaryDirectory() as name:
            figures = measure(model, Path(name), items, arguments.rounds)
        told.append(figures)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(told, indent=2))
        rate, single = figures["ratio"], figures["overhead_of_one"]
        print(
            f"bench-service {model}: service ÷ engine alone {rate['median']:.3f}"
            f" ({rate['min']:.3f} – {rate['max']:.3f}); one item: overhead ÷ the model's time"
            f" {single['median']:.2f} ({single['min']:.2f} – {single['max']:.2f}),"
            f" n {arguments.rounds}; peak MiB {figures['peak_mebibytes']}",
            flush=True,
        )


def measure(name: str, folder: Path, count: int, rounds: int) -> dict[str, Any]:
    """Run both arms in turn."""
    model, pictures = DEMO, folder / "pictures"
    if name == "demo":
        draw(pictures, count)
    else:
        model = folder / "model"
        workload.mid(model)
        workload.save_photos(pictures, count)
    paths = sorted(pictures.iterdir())
    extra = {
        "IDEFIQ_FEATURES_BYTES": "0",
        "IDEFIQ_REUSE_ANSWERS": "false",
        "IDEFIQ_MODEL_PATH": str(model),
    }
    log = folder / "service.log"
    stack = Stack(folder / "data", port=0, models=["model"], log=log, extra=extra)
    arms: dict[str, list[dict[str, float]]] = {"alone": [], "service": []}
    with stack.running(), Client(stack.url) as client:
        items = []
        for image, path in zip(client.upload(paths), paths, strict=True):
            least, most = workload.tokens_of(path.name)
            options = {"min_new_tokens": least, "max_new_tokens": most}
            items.append({"images": [image], "options": options})
        in_service(client, items)  # intake checks every image once
        command = [sys.executable, "-m", "benchmarks.service"]
        command += ["--alone", str(model), f"{folder}/data/blobs"]
        for _ in range(rounds):
            output = subprocess.check_output(
                command, input=json.dumps(items), text=True, stderr=subprocess.DEVNULL
            )
            arms["alone"].append(json.loads(output.splitlines()[-1]))
            arms["service"].append(in_service(client, items))
        peaks = peak_mebibytes(stack)
    pairs = list(zip(arms["service"], arms["alone"], strict=True))
    return {
        "model": name,
        "items": count,
        "arms": arms,
        "ratio": spread([s["rate"] / a["rate"] for s, a in pairs]),
        "overhead_of_one": spread([s["single"] / a["single"] - 1 for s, a in pairs]),
        "peak_mebibytes": peaks,
    }


if __name__ == "__main__":
    main()
