"""How likely each label is after a prompt, from one pass over the prompt.

    prompt ─▶ cache ─┬▶ " cat"        log p(cat | prompt)
                     ├▶ " dog"
                     └▶ " a red wall"

The space before a label belongs to the label: tokenizers join it to the word. Where a tokenizer
joins even more across the border, the prompt is cut back to what all labels share with it, so
that every label is scored by exactly the tokens that it would be written with.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from workers.families.base import Score

if TYPE_CHECKING:
    from workers.families.pinned import Inputs, Pinned

#: Labels that are scored side by side.
ROWS = 64


@dataclass(frozen=True, slots=True)
class Suffixes:
    """What follows the prompt: the ids of each label, after `cut` tokens less of the prompt."""

    ids: list[list[int]]
    cut: int


def suffixes(text_ids: Callable[[str], list[int]], prompt: str, labels: Sequence[str]) -> Suffixes:
    """Find each label's tokens after the prompt.

    Args:
        text_ids: The tokenizer.
        prompt: The prompt's text, an image being one token.
    """
    begun = text_ids(prompt)
    space = "" if prompt.endswith("\n") else " "
    whole = [text_ids(f"{prompt.rstrip(' ')}{space}{label}") for label in labels]
    shared = min(_shared(begun, ids) for ids in whole)
    return Suffixes([ids[shared:] for ids in whole], cut=len(begun) - shared)


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def rank(family: "Pinned", item: "Inputs", labels: Sequence[str]) -> list[Score]:
    """The likelihood of every label, in their order.

    Raises:
        RuntimeError: The device failed.
    """
    assert item.labels is not None
    logprobs = cached(family, item) if family.ranks_from_cache else whole(family, item)
    return [
        Score(label, float(sum(chosen)), float(sum(chosen) / len(chosen)))
        for label, chosen in zip(labels, logprobs, strict=True)
    ]


def cached(family: "Pinned", item: "Inputs") -> list[list[float]]:
    """Each label's tokens' logarithmic probabilities, the prompt being read once."""
    suffixes = _suffixes(item)
    prefix = family.collate([cut(family, item)])
    length = prefix["input_ids"].shape[1]
    outputs = family.model(**prefix, use_cache=True)
    first = _logprobs(outputs.logits[:, -1])
    more = family.go_on(outputs, prefix)
    chosen = []
    for start in range(0, len(suffixes), ROWS):
        some = suffixes[start : start + ROWS]
        cache = copy.deepcopy(outputs.past_key_values)
        cache.batch_repeat_interleave(len(some))
        ids, mask = _right_padded(some, family.device)
        seen = prefix["attention_mask"].expand(len(some), length)
        steps = family.model(
            input_ids=ids,
            attention_mask=torch.cat([seen, mask], 1),
            past_key_values=cache,
            use_cache=True,
            **{name: tensor.repeat_interleave(len(some), 0) for name, tensor in more.items()},
        )
        scores = torch.cat(
            [first.expand(len(some), -1)[:, None], _logprobs(steps.logits[:, :-1])], 1
        )
        chosen += _pick(scores, some)
    return chosen


def whole(family: "Pinned", item: "Inputs") -> list[list[float]]:
    """The same, each label with the whole prompt before it: slower, for any architecture."""
    chosen = []
    for suffix in _suffixes(item):
        bare = cut(family, item)
        ids = torch.cat([bare.tensors["input_ids"], torch.tensor(suffix)])
        tensors = {**bare.tensors, "input_ids": ids}
        for name in family.per_token.keys() & bare.tensors.keys() - {"input_ids"}:
            last = bare.tensors[name][-1:]
            tensors[name] = torch.cat([bare.tensors[name], last.repeat_interleave(len(suffix), 0)])
        scores = family.model(**family.collate([_with(bare, tensors)])).logits
        chosen += _pick(_logprobs(scores[:, -len(suffix) - 1 : -1]), [suffix])
    return chosen


def cut(family: "Pinned", item: "Inputs") -> "Inputs":
    """The item without the last tokens of its prompt, where labels need that."""
    end = len(item.tensors["input_ids"]) - (item.labels.cut if item.labels else 0)
    tensors = {
        name: tensor[:end] if name in family.per_token else tensor
        for name, tensor in item.tensors.items()
    }
    return _with(item, tensors)


def _with(item: "Inputs", tensors: dict[str, Any]) -> "Inputs":
    return type(item)(tensors, item.prompt, item.template, item.seed, item.labels)


def _suffixes(item: "Inputs") -> list[list[int]]:
    return item.labels.ids if item.labels else []


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


def _logprobs(logits: torch.Tensor) -> torch.Tensor:
    return logits.float().log_softmax(-1)


def _pick(logprobs: torch.Tensor, suffixes: Sequence[Sequence[int]]) -> list[list[float]]:
    """Of float (rows, steps, vocabulary), those of each row's own tokens."""
    return [
        [float(logprobs[row, step, token]) for step, token in enumerate(suffix)]
        for row, suffix in enumerate(suffixes)
    ]
