"""What an answer surely begins with, told while it is generated.

Certain is what no later token changes: no half character, no space that may be the last, no
beginning of a stop string that may go on. So every text told is a beginning of the final one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers.generation import BaseStreamer

from workers.families import generation
from workers.families.base import Prepared
from workers.families.generation import Ending


class Streamer(BaseStreamer):  # type: ignore[misc]
    """Reads the tokens of each step; `generate` calls it, first with the prompt."""

    def __init__(
        self, batch: Sequence[Prepared], stops: Sequence[str], ending: Ending, tokenizer: Any
    ) -> None:
        self._batch, self._stops = batch, stops
        self._ending, self._tokenizer = ending, tokenizer
        self._rows: list[list[int]] | None = None
        self._said = [""] * len(batch)

    @classmethod
    def of(
        cls,
        batch: Sequence[Prepared],
        options: Mapping[str, Any],
        ending: Ending,
        tokenizer: Any,
    ) -> "Streamer | None":
        """One for a batch in which somebody reads along; beams are only known at the end."""
        if options.get("num_beams", 1) > 1 or not any(item.on_text for item in batch):
            return None
        return cls(batch, options.get("stop", ()), ending, tokenizer)

    def put(self, value: torch.Tensor) -> None:
        """Take the next tokens: int (rows,), after the prompt's (rows, tokens)."""
        if self._rows is None:
            self._rows = [[] for _ in self._batch]
            return
        for index, token in enumerate(value.tolist()):
            row, item = self._rows[index], self._batch[index]
            if item.on_text is None or (row and row[-1] in self._ending.ids):
                continue
            row.append(token)
            if token in self._ending.raw:
                continue
            said = generation.read(row, self._stops, self._ending, self._tokenizer)
            certain = said.text if said.finish_reason == "stop" else self._certain(said.text)
            if len(certain) > len(self._said[index]):
                self._said[index] = certain
                item.on_text(certain)

    def end(self) -> None:
        """Nothing is held back: the answer itself follows."""

    def _certain(self, text: str) -> str:
        held = max((_begun(text, stop) for stop in self._stops), default=0)
        return text[: len(text) - held].rstrip("\ufffd").rstrip()


def _begun(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins."""
    return next((n for n in range(min(len(text), len(stop)), 0, -1) if text.endswith(stop[:n])), 0)
