"""CUDA graphs of the decode step, so that a GPU does not wait for Python.

To launch a step of transformers takes a CPU some ten milliseconds; a GPU computes it in three.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch

log = logging.getLogger(__name__)

#: A graph is captured for each of these numbers of visible positions.
GRAPH_LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)


class CudaGraphs:
    """CUDA graphs of the decode step, captured over static buffers."""

    def __init__(self) -> None:
        self._captured: dict[int, tuple[torch.cuda.CUDAGraph, Any]] = {}
        self._warm: set[int] = set()
        self._refused: set[int] = set()
        self._pool: Any = None

    @staticmethod
    def bucket(visible: int, length: int) -> int:
        """Return the least number of positions, `visible` or more, that graphs are captured for."""
        return min(next((size for size in GRAPH_LENGTHS if size >= visible), length), length)

    def run(self, visible: int, compute: Callable[[], Any]) -> Any:
        """Run the step `compute` as a CUDA graph.

        The first call for a number of positions runs it eagerly, because lazy initialisation
        cannot be captured. The second captures it, which computes nothing, and replays it.
        """
        if visible not in self._warm:
            self._warm.add(visible)
            return compute()
        if visible in self._refused:
            return compute()
        if visible not in self._captured:
            try:
                # The block also restores the stream if the capture fails.
                with torch.cuda.stream(torch.cuda.current_stream()):
                    self._captured[visible] = self._capture(compute)
            except RuntimeError as error:
                log.warning(
                    "a decode step of %d positions cannot be captured as a CUDA graph: %s",
                    visible,
                    error,
                )
                self._refused.add(visible)
                return compute()
        graph, outputs = self._captured[visible]
        graph.replay()
        return outputs

    def _capture(self, compute: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            outputs = compute()
        self._pool = self._pool or graph.pool()
        return graph, outputs
