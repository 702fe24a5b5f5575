"""Sampling that does not depend on the neighbours in a batch.

`generate` draws all rows of a batch from one source of chance, so an answer would change with
its batch. Here each row has its own: adding Gumbel noise and taking the largest is drawing from
the softmax (Gumbel 1954; Maddison et al. 2014), and the noise comes from the row's seed.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


def new_seed() -> int:
    """A seed for an item that brings none; small enough for every JSON reader."""
    return secrets.randbits(53)


class SeededNoise(LogitsProcessor):  # type: ignore[misc]
    """Turns the choice of the likeliest token into a draw, row by row.

    Args:
        seeds: One for each row; the same seed draws the same noise at the same step.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        # On the CPU, so that the draw does not depend on the device either.
        self._sources = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores: float (rows, vocabulary), -inf for what must not be said."""
        noise = torch.stack(
            [
                torch.empty(scores.shape[1]).exponential_(generator=source)
                for source in self._sources
            ]
        )
        # -log of an exponential draw is a Gumbel draw.
        # Without waiting for the device: a step that draws must not hold up the others.
        drawn: torch.Tensor = scores.float() - noise.log().to(scores.device, non_blocking=True)
        return drawn


def processors(options: Mapping[str, Any], seeds: Sequence[int]) -> LogitsProcessorList:
    """What makes greedy `generate` sample: temperature, top-k, top-p, min-p, then noise by seed."""
    chosen = LogitsProcessorList()
    if (temperature := options.get("temperature") or 1.0) != 1.0:
        chosen.append(TemperatureLogitsWarper(float(temperature)))
    if top_k := options.get("top_k"):
        chosen.append(TopKLogitsWarper(top_k=top_k))
    if (top_p := options.get("top_p") or 1.0) < 1.0:
        chosen.append(TopPLogitsWarper(top_p=top_p))
    if min_p := options.get("min_p"):
        chosen.append(MinPLogitsWarper(min_p=min_p))
    chosen.append(SeededNoise(seeds))
    return chosen
