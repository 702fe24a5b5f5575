"""`make bench-service`: the whole service ÷ the engine alone, and every process's peak memory.

    alone     stored bytes ─▶ decode and prepare (threads, ahead) ─▶ generate, batch by batch
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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from db.blobs import FolderStore, image_key
from idefiq import Client
from idefiq.up import Stack
from workers.demo.draw import draw

BATCH, LOADERS = 32, 4
#: Owner of keyless requests in a record that was made by this run.
OWNER = 1


def alone(folder: Path, digests: Sequence[str]) -> float:
    """Items per second of an engine without a service around it; runs in its own process."""
    from workers import families
    from workers.families.base import Prepared
    from workers.images import decode
    from workers.settings import EngineSettings

    family, store = families.load(EngineSettings(model="demo")), FolderStore(folder)
    families.warm_up(family)

    def load(digest: str) -> Prepared:
        return family.prepare({"kind": "caption"}, [decode(store.get(image_key(OWNER, digest)))])

    def load_batch(some: Sequence[str]) -> list[Prepared]:
        return list(threads.map(load, some))

    batches = [digests[start : start + BATCH] for start in range(0, len(digests), BATCH)]
    with ThreadPoolExecutor(LOADERS) as threads, ThreadPoolExecutor(2) as ahead:
        began = time.monotonic()
        for prepared in _in_advance(ahead, load_batch, batches):
            family.generate(prepared)
        return len(digests) / (time.monotonic() - began)


def _in_advance(pool: ThreadPoolExecutor, load: Any, batches: Sequence[Any]) -> Iterator[Any]:
    """Results of `load`, two batches ahead of their use."""
    pending = [pool.submit(load, batch) for batch in batches[:2]]
    for index in range(len(batches)):
        if index + 2 < len(batches):
            pending.append(pool.submit(load, batches[index + 2]))
        yield pending[index].result()


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
    for service in stack.services:
        if service.process is None:
            continue
        for number, pid in enumerate([service.process.pid, *_children(service.process.pid)]):
            status = Path(f"/proc/{pid}/status").read_text()
            [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
            name = service.name if number == 0 else f"{service.name} child {number}"
            peaks[name] = int(line.split()[1]) // 1024
    return peaks


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
    extra = {"IDEFIQ_BATCH_ITEMS": str(BATCH)}
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
