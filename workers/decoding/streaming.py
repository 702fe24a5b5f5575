"""Streaming: the text of an answer while it is generated.

Only text that no later token can change is streamed: no half character, no space that may be the
last, no beginning of a stop string. So every streamed text is a prefix of the final answer.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.generation import BaseStreamer

from workers.decoding import generation
from workers.decoding.generation import EndTokens

log = logging.getLogger(__name__)


class AnswerStreamer:
    """Detokenizes one answer while it grows, streams its text and finds stop strings.

    Args:
        on_text: Called with the whole stable text so far, whenever it has become longer.
        stops: Stop strings; the answer ends before the first of them.
    """

    def __init__(
        self,
        on_text: Callable[[str], None] | None,
        stops: Sequence[str],
        end_tokens: EndTokens,
        tokenizer: Any,
    ) -> None:
        self._on_text, self._stops = on_text, stops
        self._end_tokens, self._tokenizer = end_tokens, tokenizer
        self._streamed = ""

    def __call__(self, ids: Sequence[int]) -> bool:
        """Take all tokens so far. Returns True if the answer is finished."""
        if ids[-1] in self._end_tokens.byte_tokens:
            return False
        answer = generation.detokenize(ids, self._stops, self._end_tokens, self._tokenizer)
        is_over = answer.finish_reason != "length"
        if self._on_text:
            stable = answer.text if answer.finish_reason == "stop" else self._stable(answer.text)
            if len(stable) > len(self._streamed):
                self._streamed = stable
                try:
                    self._on_text(stable)
                except Exception:  # a failing reader must not end the answer
                    log.exception("the text of an answer could not be streamed")
        return is_over

    def _stable(self, text: str) -> str:
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        return text[: len(text) - held].rstrip("\ufffd").rstrip()


class BatchStreamer(BaseStreamer):  # type: ignore[misc]
    """Passes each row's tokens to its AnswerStreamer. `generate` calls it, first with the prompt.

    Args:
        streamers: One for each row, None for a row that is not streamed.
    """

    def __init__(self, streamers: Sequence[AnswerStreamer | None]) -> None:
        self._streamers = list(streamers)
        self._rows: list[list[int]] | None = None

    def put(self, value: torch.Tensor) -> None:
        """Take the next token of each row: int (rows,), after the prompt's (rows, tokens)."""
        if self._rows is None:
            self._rows = [[] for _ in self._streamers]
            return
        for number, token in enumerate(value.tolist()):
            streamer = self._streamers[number]
            if streamer:
                self._rows[number].append(token)
                if streamer(self._rows[number]):
                    self._streamers[number] = None

    def end(self) -> None:
        """Do nothing: the whole answer follows."""


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of `text` that is a prefix of `stop`."""
    return next((n for n in range(min(len(text), len(stop)), 0, -1) if text.endswith(stop[:n])), 0)
