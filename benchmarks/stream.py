"""`make bench-stream`: a million references streamed, and the memory that it takes on both sides.

client ──stream of lines──▶ API ──spool──▶ upkeep ──pages──▶ record

Peak memory of each process after a large submission ÷ after a small one, on fresh services.
Expected before the first run: 1.1 at most, because nothing holds more than a page.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.service import peak_mebibytes
from idefiq import Client
from idefiq.up import Stack

IMAGE = "blob:" + "ab" * 32


def items(count: int) -> Iterator[dict[str, Any]]:
    """References as a program would name them."""
    for number in range(count):
        yield {"images": [IMAGE], "custom_id": f"photo {number}", "prompt": f"number {number}"}


def submit(url: str, count: int) -> None:
    """Submit as a user's program does, in its own process; prints its peak memory."""
    with Client(url, timeout_seconds=600) as client:
        job = client.submit(items(count))
        client.pause(job)
    [line] = [
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    ]
    print(json.dumps({"job": job.id, "peak_mebibytes": int(line.split()[1]) // 1024}))


def measure(count: int) -> dict[str, Any]:
    """Submit `count` items to a fresh service and wait until all are in its record."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stack = Stack(folder / "data", port=0, models=["echo"], log=folder / "service.log")
        with stack.running(), Client(stack.url) as client:
            began = time.monotonic()
            command = [sys.executable, "-m", "benchmarks.stream", "--client", stack.url]
            output = subprocess.check_output([*command, "--items", str(count)], text=True)
            told = json.loads(output)
            acknowledged = time.monotonic() - began
            while client.job(told["job"]).state == "importing":
                time.sleep(0.5)
            imported = time.monotonic() - began
            peaks = peak_mebibytes(stack)
            if (total := client.job(told["job"]).counts.total) != count:
                raise SystemExit(f"{total} of {count} items are there")
    return {
        "items": count,
        "seconds_to_202": acknowledged,
        "seconds_to_import": imported,
        "peak_mebibytes": {
            "client": told["peak_mebibytes"],
            **{name: peaks[name] for name in ("api", "upkeep")},
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory of a streamed submission.")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--small", type=int, default=50_000)
    parser.add_argument("--client", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("build/bench-stream.json"))
    arguments = parser.parse_args()
    if arguments.client:
        submit(arguments.client, arguments.items)
        return
    small, large = measure(arguments.small), measure(arguments.items)
    ratios = {
        name: round(peak / small["peak_mebibytes"][name], 3)
        for name, peak in large["peak_mebibytes"].items()
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figures = {"small": small, "large": large, "ratio": ratios}
    arguments.out.write_text(json.dumps(figures, indent=2))
    print(
        f"bench-stream: peak memory with {large['items']} items ÷ with {small['items']}: {ratios};"
        f" MiB {large['peak_mebibytes']}"
    )


if __name__ == "__main__":
    main()
