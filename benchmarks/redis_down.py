"""`make bench-redis`: throughput with Redis stopped for a whole job ÷ with Redis there.

A job of echo items is submitted, imported, claimed and answered twice in each round: once
undisturbed, once with Redis killed before the submission and started again after the last
answer. Expected before the first run: above 0.95, because a worker that has work asks the record
and waits for no wake; only the first claim is up to a poll interval later.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from idefiq import Client
from idefiq.supervised import Service
from idefiq.up import Stack
from workers.demo.draw import draw

IMAGES = 200


def run_job(client: Client, images: list[str], count: int) -> float:
    """Items per second from the submission to the end of the job."""
    items = [{"images": [images[n % len(images)]]} for n in range(count)]
    began = time.monotonic()
    job = client.wait(client.submit(items))
    if job.counts.succeeded != count:
        raise SystemExit(f"the job ended with {job.counts}")
    return count / (time.monotonic() - began)


def without(redis: Service, client: Client, images: list[str], count: int) -> float:
    """Run the same with Redis stopped."""
    assert redis.process
    redis.process.kill()
    redis.process.wait()
    try:
        return run_job(client, images, count)
    finally:
        redis.start()


def main() -> None:
    parser = argparse.ArgumentParser(description="Throughput with Redis down ÷ undisturbed.")
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("build/bench-redis.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = draw(folder, IMAGES)
        extra = {"IDEFIQ_BATCH_ITEMS": "64"}
        stack = Stack(
            folder / "data", port=0, models=["echo"], log=folder / "service.log", extra=extra
        )
        pairs = []
        with stack.running(), Client(stack.url) as client:
            images = client.upload(paths)
            run_job(client, images, IMAGES)  # intake checks every image once
            [redis] = [service for service in stack.services if service.name == "redis"]
            for _ in range(arguments.rounds):
                there = run_job(client, images, arguments.items)
                pairs.append((there, without(redis, client, images, arguments.items)))
    ratios = [away / there for there, away in pairs]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"items_per_second": pairs, "ratios": ratios}, indent=2))
    print(
        f"bench-redis: Redis down ÷ undisturbed {statistics.median(ratios):.3f}"
        f" (min {min(ratios):.3f}, max {max(ratios):.3f}, n {arguments.rounds},"
        f" {arguments.items} items a job)"
    )


if __name__ == "__main__":
    main()
