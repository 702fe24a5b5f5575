"""LitServe, as its guide to batching advises: requests are gathered, decoded and answered together.

Runs in an environment of its own, until it is ended.
"""

import argparse
import base64
from pathlib import Path
from typing import Any

import litserve


class Captioner(litserve.LitAPI):  # type: ignore[misc]  # it has no types
    """One picture a request, base64 in JSON."""

    def __init__(self, folder: str, threads: int, **options: Any) -> None:
        super().__init__(**options)
        self._folder, self._threads = folder, threads

    def setup(self, device: str) -> None:
        """Load, in the worker's process."""
        import torch

        from benchmarks.documented import Documented

        torch.set_num_threads(self._threads)
        self._model = Documented(Path(self._folder))

    def decode_request(self, request: dict[str, str]) -> tuple[str, bytes]:
        """The picture's name and bytes."""
        return request["name"], base64.b64decode(request["image"])

    def predict(self, named: list[tuple[str, bytes]]) -> list[str]:
        """One batch."""
        return self._model.caption([name for name, _ in named], [data for _, data in named])

    def encode_response(self, text: str) -> dict[str, str]:
        """The caption."""
        return {"text": text}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--actors", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    api = Captioner(
        arguments.folder,
        arguments.threads,
        max_batch_size=arguments.batch,
        batch_timeout=0.05,
    )
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=arguments.actors, timeout=600
    )
    server.run(host="127.0.0.1", port=arguments.port, generate_client_file=False, num_api_servers=1)


if __name__ == "__main__":
    main()
