"""CUDA graphs: a step is recorded once and replayed, so that a GPU does not wait for Python.

A step of the library takes a CPU some ten milliseconds to launch and a GPU three to compute.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch

log = logging.getLogger(__name__)

#: A step is recorded for each of these numbers of positions that it looks at.
SEEN = (128, 256, 512, 1024, 2048, 4096, 8192)


class Replays:
    """Recorded steps; what they read and write is in memory that stays where it is."""

    def __init__(self) -> None:
        self._recorded: dict[int, tuple[torch.cuda.CUDAGraph, Any]] = {}
        self._warm: set[int] = set()
        self._refused: set[int] = set()
        self._memory: Any = None

    @staticmethod
    def bucket(seen: int, length: int) -> int:
        """The least number of positions, at least `seen`, for which a step is recorded."""
        return min(next((size for size in SEEN if size >= seen), length), length)

    def run(self, seen: int, compute: Callable[[], Any]) -> Any:
        """Replay what `compute` does.

        The first time it is run as it is, for what libraries set up lazily cannot be recorded;
        the second time it is recorded, which computes nothing, and replayed at once.
        """
        if seen not in self._warm:
            self._warm.add(seen)
            return compute()
        if seen in self._refused:
            return compute()
        if seen not in self._recorded:
            try:
                # The block also brings back the stream if recording fails.
                with torch.cuda.stream(torch.cuda.current_stream()):
                    self._recorded[seen] = self._record(compute)
            except RuntimeError as error:
                log.warning("a step of %d positions cannot be recorded: %s", seen, error)
                self._refused.add(seen)
                return compute()
        graph, outputs = self._recorded[seen]
        graph.replay()
        return outputs

    def _record(self, compute: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory):
            outputs = compute()
        self._memory = self._memory or graph.pool()
        return graph, outputs
