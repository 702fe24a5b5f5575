"""Seeded sampling: an answer depends on its own seed and not on its neighbours in a batch.

`generate` samples all rows of a batch from one random generator, so an answer would change with
its batch. Here each row has a generator of its own: adding Gumbel noise and taking the largest
logit samples from the softmax (Gumbel 1954; Maddison et al. 2014).
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
    """Return a random seed that every JSON reader can represent."""
    return secrets.randbits(53)


class SeededNoise(LogitsProcessor):  # type: ignore[misc]
    """Adds Gumbel noise, so that greedy decoding of the result samples a token.

    Args:
        seeds: One for each row; the same seed gives the same noise at the same step.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        # On the CPU, so that the noise does not depend on the device either.
        self._sources = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores with noise: float (rows, vocabulary), -inf for forbidden tokens."""
        noise = torch.stack(
            [
                torch.empty(scores.shape[1]).exponential_(generator=source)
                for source in self._sources
            ]
        )
        # -log of an exponential sample is a Gumbel sample.
        # Without waiting for the device: a sampled row must not hold up the others.
        sampled: torch.Tensor = scores.float() - noise.log().to(scores.device, non_blocking=True)
        return sampled


def processors(options: Mapping[str, Any], seeds: Sequence[int]) -> LogitsProcessorList:
    """Build the logits processors for sampling: temperature, top-k, top-p, min-p, seeded noise."""
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
