"""Presence and frequency penalties, as OpenAI's API defines them.

logit of a token −= frequency × how often the answer has it + presence, if it has it
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import LogitsProcessor


class AnswerPenalty(LogitsProcessor):  # type: ignore[misc]
    """Makes tokens less likely that the answer has already; those of the prompt do not count.

    Args:
        prompt_tokens: Tokens of the prompt, its padding included.
    """

    def __init__(self, presence: float, frequency: float, prompt_tokens: int) -> None:
        self._presence, self._frequency = presence, frequency
        self._prompt_tokens = prompt_tokens

    @classmethod
    def for_options(cls, options: Mapping[str, Any], prompt_tokens: int) -> "list[AnswerPenalty]":
        """Return what the options of a request need: one, or none."""
        presence = float(options.get("presence_penalty") or 0.0)
        frequency = float(options.get("frequency_penalty") or 0.0)
        return [cls(presence, frequency, prompt_tokens)] if presence or frequency else []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return penalized scores.

        Args:
            input_ids: Prompt and answer so far, int (rows, tokens).
            scores: float (rows, vocabulary).
        """
        answer = input_ids[:, self._prompt_tokens :]
        counts = torch.zeros_like(scores).scatter_add_(
            1, answer, torch.ones_like(answer, dtype=scores.dtype)
        )
        return scores - self._frequency * counts - self._presence * (counts > 0)
