"""Scores of labels after a prompt, from one prefill of the prompt.

    prompt ─▶ cache ─┬▶ " cat"        log p(cat | prompt)
                     ├▶ " dog"
                     └▶ " a red wall"

The space before a label belongs to the label: tokenizers join it to the word. Where a tokenizer
joins even more across the border, the prompt is cut back to what all labels share with it, so
that every label is scored by exactly the tokens that it would be written with.
"""

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from db.vocabulary.errors import EngineError
from workers.families.answers import echoed_prompt
from workers.families.architecture import Architecture, Inputs, Suffixes
from workers.families.base import Answer, Prepared, Score
from workers.families.loaded import LoadedModel

#: Most labels of a batch, most tokens of its labels, and most positions of prompts and labels.
MAX_ROWS, MAX_LABEL_TOKENS, MAX_POSITIONS = 64, 1024, 32_768


def suffixes(ids_of: Callable[[str], list[int]], prompt: str, labels: Sequence[str]) -> Suffixes:
    """Find each label's tokens after the prompt.

    Args:
        ids_of: The tokenizer, adding nothing at the beginning.
        prompt: The prompt's text, or as much of its end as the labels' tokens can depend on.
    """
    begun = ids_of(prompt)
    space = "" if prompt.endswith("\n") else " "
    whole = [ids_of(f"{prompt.rstrip(' ')}{space}{label}") for label in labels]
    shared = min(_shared(begun, ids) for ids in whole)
    return Suffixes([ids[shared:] for ids in whole], cut=len(begun) - shared)


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


@dataclass(frozen=True, slots=True)
class Ranker:
    """Scores the labels of items on a loaded model.

    Attributes:
        is_cached: Labels are scored after one prefill of the prompt, and not with `generate`,
            which is slower and works for any architecture.
    """

    loaded: LoadedModel
    architecture: Architecture
    is_cached: bool = False

    def answer(self, item: Prepared) -> Answer:
        """Answer an item with the label of the highest score.

        Raises:
            EngineError: The model's scores are no numbers.
            torch.OutOfMemoryError: Not even one label at a time fits.
        """
        scores = self._rank(item.inputs, item.inputs.suffixes, item.request["labels"])
        best = max(scores, key=lambda score: score.logprob)  # the first of equals
        return Answer(
            text=best.label,
            finish_reason="rank",
            prompt_tokens=item.tokens,
            completion_tokens=0,
            template=item.inputs.template,
            path="rank",
            kind_fields={"label": best.label},
            scores=tuple(scores),
            prompt=echoed_prompt(item),
        )

    def _rank(self, item: Inputs, suffixes: Suffixes, labels: Sequence[str]) -> list[Score]:
        score = self.cached if self.is_cached else self.forced
        rows = MAX_ROWS
        while True:
            try:
                logprobs = score(item, suffixes, rows)
                break
            except torch.OutOfMemoryError:
                if rows == 1:
                    raise
                rows //= 2
        scores = [
            Score(label, sum(chosen), sum(chosen) / len(chosen))
            for label, chosen in zip(labels, logprobs, strict=True)
        ]
        if not all(math.isfinite(score.logprob) for score in scores):
            raise EngineError("the model's scores are not finite")
        return scores

    def cached(
        self, item: Inputs, suffixes: Suffixes, most_rows: int = MAX_ROWS
    ) -> list[list[float]]:
        """Log probabilities of each label's tokens, with one prefill of the prompt."""
        model, architecture = self.loaded.model, self.architecture
        prefix = architecture.collate([self._without_end(item, suffixes.cut)])
        length = prefix["input_ids"].shape[1]
        outputs = model(**prefix, use_cache=True, **_last_only(model))
        chosen: list[list[float]] = []
        while some := suffixes.ids[len(chosen) :][: _rows(suffixes, length, most_rows)]:
            cache = copy.deepcopy(outputs.past_key_values)
            cache.batch_repeat_interleave(len(some))
            ids, mask = _right_padded(some, self.loaded.device)
            seen = prefix["attention_mask"].expand(len(some), length)
            steps = model(
                input_ids=ids,
                attention_mask=torch.cat([seen, mask], 1),
                past_key_values=cache,
                use_cache=True,
                **architecture.continuation_inputs(outputs, prefix, *ids.shape),
            )
            first = outputs.logits[:, -1:].expand(len(some), -1, -1)
            chosen += _pick(torch.cat([first, steps.logits[:, :-1]], 1), some)
        return chosen

    def forced(
        self, item: Inputs, suffixes: Suffixes, most_rows: int = MAX_ROWS
    ) -> list[list[float]]:
        """The same with `generate`, forced to each label."""
        bare = self._without_end(item, suffixes.cut)
        length = len(bare.tensors["input_ids"])
        chosen: list[list[float]] = []
        while some := suffixes.ids[len(chosen) :][: _rows(suffixes, length, most_rows)]:
            prefix = self.architecture.collate([bare] * len(some))

            def only(row: int, ids: torch.Tensor, some: list[list[int]] = some) -> list[int]:
                step = len(ids) - length
                return [some[row][step] if step < len(some[row]) else some[row][-1]]

            output = self.loaded.model.generate(
                **prefix,
                max_new_tokens=max(len(suffix) for suffix in some),
                do_sample=False,
                num_beams=1,
                prefix_allowed_tokens_fn=only,
                output_logits=True,
                return_dict_in_generate=True,
            )
            chosen += _pick(torch.stack(output.logits, 1), some)
        return chosen

    def _without_end(self, item: Inputs, cut: int) -> Inputs:
        """Return the item without the last tokens of its prompt, if labels need that."""
        end = len(item.tensors["input_ids"]) - cut
        tensors = {
            name: tensor[:end] if name in self.architecture.per_token else tensor
            for name, tensor in item.tensors.items()
        }
        return replace(item, tensors=tensors)


def _rows(suffixes: Suffixes, length: int, most: int) -> int:
    longest = max(len(suffix) for suffix in suffixes.ids)
    return max(1, min(most, MAX_LABEL_TOKENS // longest, MAX_POSITIONS // (length + longest)))


def _last_only(model: Any) -> dict[str, int]:
    """Keep only the last logits: those of the whole prompt would be gigabytes."""
    takes = inspect.signature(model.forward).parameters
    return {"logits_to_keep": 1} if "logits_to_keep" in takes else {}


def _right_padded(
    suffixes: Sequence[Sequence[int]], device: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(suffix) for suffix in suffixes)
    ids = torch.zeros((len(suffixes), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, suffix in enumerate(suffixes):
        ids[row, : len(suffix)] = torch.tensor(suffix)
        mask[row, : len(suffix)] = 1
    return ids.to(device), mask.to(device)


def _pick(logits: torch.Tensor, suffixes: Sequence[Sequence[int]]) -> list[list[float]]:
    """Pick each row's tokens' log probabilities from float (rows, steps, vocabulary)."""
    ids, _ = _right_padded(suffixes, logits.device)
    chosen = logits.gather(-1, ids[..., None])[..., 0].float() - torch.stack(
        [row.float().logsumexp(-1) for row in logits]  # one by one: in float32 a row is large
    )
    rows: list[list[float]] = chosen.tolist()
    return [row[: len(suffix)] for row, suffix in zip(rows, suffixes, strict=True)]
