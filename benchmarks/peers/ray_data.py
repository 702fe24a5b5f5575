"""Ray Data, as its guide to batch inference advises: one pipeline, the model in an actor pool.

Runs in an environment of its own; prints a line of JSON with the rate and the answers.
"""

import argparse
import io
import json
import time
from pathlib import Path
from typing import Any

import ray
from PIL import Image


def picture() -> bytes:
    """Any."""
    data = io.BytesIO()
    Image.new("RGB", (96, 96), "red").save(data, "PNG")
    return data.getvalue()


class Captioner:
    """Loads once for each actor."""

    def __init__(self, folder: str, threads: int) -> None:
        import torch

        from benchmarks.documented import Documented

        torch.set_num_threads(threads)
        self._model = Documented(Path(folder))
        self._model.caption(["0-4.png"], [picture()])  # lazy set-up

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One batch of pictures as bytes."""
        began = time.monotonic()
        said = self._model.caption([Path(path).name for path in batch["path"]], batch["bytes"])
        times = [(began, time.monotonic())] * len(said)
        return {"path": batch["path"], "text": said, "time": times}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--actors", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    paths = sorted(str(path) for path in arguments.pictures.iterdir())
    answered = ray.data.read_binary_files(paths, include_paths=True).map_batches(
        Captioner,
        fn_constructor_args=(arguments.folder, arguments.threads),
        batch_size=arguments.batch,
        compute=ray.data.ActorPoolStrategy(size=arguments.actors),
        num_cpus=1 / arguments.actors,  # so that reading has a place beside them
    )
    rows: list[dict[str, Any]] = answered.take_all()
    # From the first batch on: a long pipeline would not notice how its actors start.
    seconds = max(row["time"][1] for row in rows) - min(row["time"][0] for row in rows)
    said = {Path(row["path"]).name: row["text"] for row in rows}
    print(json.dumps({"rate": len(rows) / seconds, "said": said}))


if __name__ == "__main__":
    main()
