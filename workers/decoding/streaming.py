"""What an answer surely begins with, told while it is generated.

Certain is what no later token changes: no half character, no space that may be the last, no
beginning of a stop string that may go on. So every text told is a beginning of the final one.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.generation import BaseStreamer

from workers.decoding import generation
from workers.decoding.generation import Ending

log = logging.getLogger(__name__)


class Teller:
    """Reads one answer token by token.

    Args:
        on_text: Called with its beginning, whenever more of it is certain.
        stops: Strings before the first of which it ends.
    """

    def __init__(
        self,
        on_text: Callable[[str], None] | None,
        stops: Sequence[str],
        ending: Ending,
        tokenizer: Any,
    ) -> None:
        self._on_text, self._stops = on_text, stops
        self._ending, self._tokenizer = ending, tokenizer
        self._told = ""

    def __call__(self, ids: Sequence[int]) -> bool:
        """Take all tokens so far. Returns whether the answer is over."""
        if ids[-1] in self._ending.raw:
            return False
        said = generation.read(ids, self._stops, self._ending, self._tokenizer)
        is_over = said.finish_reason != "length"
        if self._on_text:
            certain = said.text if said.finish_reason == "stop" else self._certain(said.text)
            if len(certain) > len(self._told):
                self._told = certain
                try:
                    self._on_text(certain)
                except Exception:  # who reads along may not end what is written
                    log.exception("an answer could not be told")
        return is_over

    def _certain(self, text: str) -> str:
        held = max((_begun(text, stop) for stop in self._stops), default=0)
        return text[: len(text) - held].rstrip("\ufffd").rstrip()


class Streamer(BaseStreamer):  # type: ignore[misc]
    """Hands each row's tokens to its teller; `generate` calls it, first with the prompt.

    Args:
        tellers: One for each row, None where nobody reads along.
    """

    def __init__(self, tellers: Sequence[Teller | None]) -> None:
        self._tellers = list(tellers)
        self._rows: list[list[int]] | None = None

    def put(self, value: torch.Tensor) -> None:
        """Take the next tokens: int (rows,), after the prompt's (rows, tokens)."""
        if self._rows is None:
            self._rows = [[] for _ in self._tellers]
            return
        for number, token in enumerate(value.tolist()):
            teller = self._tellers[number]
            if teller:
                self._rows[number].append(token)
                if teller(self._rows[number]):
                    self._tellers[number] = None

    def end(self) -> None:
        """Nothing is held back: the answer itself follows."""


def _begun(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins."""
    return next((n for n in range(min(len(text), len(stop)), 0, -1) if text.endswith(stop[:n])), 0)
