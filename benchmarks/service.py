"""`make bench-service`: the whole service ÷ the engine alone, and every process's peak memory.

    alone     stored bytes ─▶ decode and prepare (threads, ahead) ─▶ slots
    service   submit ─▶ record ─▶ claim ─▶ the same ─▶ complete ─▶ job finished, as a client sees it

Both arms start from the same bytes in the same blob store, decode them, and cache nothing; the
images were checked by intake before. They run in turn, A B A B, in one sitting, and the ratio is
taken pair by pair. Expected before the first run: 0.90, because two cores do everything.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from db.blobs import FolderStore, image_key
from idefiq import Client
from idefiq.up import Stack
from workers.demo.draw import draw

#: Owner of keyless requests in a record that was made by this run.
OWNER = 1


@dataclass(frozen=True, slots=True)
class Stored:
    """A caption of a picture in a blob store."""

    store: FolderStore
    digest: str
    request: dict[str, Any] = field(default_factory=lambda: {"kind": "caption"})

    def read(self) -> bytes:
        """From the store, each time."""
        return self.store.get(image_key(OWNER, self.digest))


def alone(folder: Path, digests: Sequence[str]) -> float:
    """Items per second of an engine without a service around it; runs in its own process."""
    from benchmarks.alone import Alone
    from workers.settings import EngineSettings

    engine = Alone(EngineSettings(model="demo", features_bytes=0))
    asked = [Stored(FolderStore(folder), digest) for digest in digests]
    engine.answer(asked[:4])  # lazy set-up
    began = time.monotonic()
    engine.answer(asked)
    rate = len(asked) / (time.monotonic() - began)
    engine.close()
    return rate


def in_service(client: Client, images: Sequence[str]) -> float:
    """Items per second from the submission to the end of the job."""
    items = [{"images": [image]} for image in images]
    began = time.monotonic()
    job = client.wait(client.submit(items))
    seconds = time.monotonic() - began
    if job.counts.succeeded != len(images):
        raise SystemExit(f"the job ended with {job.counts}")
    return len(images) / seconds


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
    parser.add_argument("--items", type=int, default=1_500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("build/bench-service.json"))
    arguments = parser.parse_args()
    if arguments.alone:
        print(alone(arguments.alone, json.load(sys.stdin)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = measure(folder, arguments.items, arguments.rounds)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(figures, indent=2))
    ratio = figures["ratio"]
    print(
        f"bench-service: service ÷ engine alone {ratio['median']:.3f}"
        f" (min {ratio['min']:.3f}, max {ratio['max']:.3f}, n {arguments.rounds});"
        f" peak MiB {figures['peak_mebibytes']}"
    )


def measure(folder: Path, items: int, rounds: int) -> dict[str, Any]:
    """Run both arms in turn."""
    paths = draw(folder, items)
    extra = {"IDEFIQ_FEATURES_BYTES": "0", "IDEFIQ_REUSE_ANSWERS": "false"}
    stack = Stack(folder / "data", port=0, models=["demo"], log=folder / "service.log", extra=extra)
    rates: dict[str, list[float]] = {"alone": [], "service": []}
    with stack.running(), Client(stack.url) as client:
        images = client.upload(paths)
        in_service(client, images)  # intake checks every image once
        digests = json.dumps([image.removeprefix("blob:") for image in images])
        command = [sys.executable, "-m", "benchmarks.service", "--alone", f"{folder}/data/blobs"]
        for _ in range(rounds):
            output = subprocess.check_output(
                command, input=digests, text=True, stderr=subprocess.DEVNULL
            )
            rates["alone"].append(float(output.splitlines()[-1]))
            rates["service"].append(in_service(client, images))
        peaks = peak_mebibytes(stack)
    ratios = [s / a for s, a in zip(rates["service"], rates["alone"], strict=True)]
    return {
        "items": items,
        "items_per_second": rates,
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "peak_mebibytes": peaks,
    }


if __name__ == "__main__":
    main()
