"""`generate` of transformers, with a request's options, and how its tokens are read."""

import copy
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation import BaseStreamer

END_OF_UTTERANCE = "<end_of_utterance>"
#: Options with transformers' own names; what is left out is the checkpoint's default.
OPTIONS = (
    "max_new_tokens",
    "min_new_tokens",
    "num_beams",
    "repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
)
SAMPLING = ("temperature", "top_p", "top_k", "min_p")


@dataclass(frozen=True, slots=True)
class Ending:
    """How a model's answers end, and what must not be in them.

    Attributes:
        ids: Tokens that end an answer.
        utterance: The one of them that ends a turn, if the model has it.
        never: Tokens of images: generated, they would stand for pictures that are not there.
        raw: Tokens of single bytes: what a run of them says is only known after the last.
    """

    ids: tuple[int, ...]
    utterance: int | None
    never: tuple[int, ...]
    raw: frozenset[int] = frozenset()

    @classmethod
    def of(cls, model: Any, tokenizer: Any, of_images: Sequence[str]) -> "Ending":
        """Read off a checkpoint: its generation config, and the tokens that it knows."""
        known = model.get_output_embeddings().weight.shape[0] + getattr(
            model.config, "additional_vocab_size", 0
        )
        vocabulary = tokenizer.get_vocab()
        utterance = vocabulary.get(END_OF_UTTERANCE)
        if utterance is not None and utterance >= known:
            utterance = None  # the processor made it up; the model has never seen it
        configured = model.generation_config.eos_token_id
        if configured is None:
            configured = tokenizer.eos_token_id
        ends = configured if isinstance(configured, list) else [configured]
        ends = [*ends, *([utterance] if utterance is not None else [])]
        return cls(
            ids=tuple(dict.fromkeys(end for end in ends if end is not None)),
            utterance=utterance,
            never=tuple(vocabulary[t] for t in of_images if vocabulary.get(t, known) < known),
            raw=frozenset(
                vocabulary[t] for t in map("<0x{:02X}>".format, range(256)) if t in vocabulary
            ),
        )


class Confidence(LogitsProcessor):  # type: ignore[misc]
    """Looks on while `generate` is greedy: how likely were the tokens that it took?"""

    def __init__(self) -> None:
        self._steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores: float (rows, vocabulary), -inf for what must not be said."""
        # The likeliest is the one that will be taken.
        self._steps.append(scores.amax(-1) - scores.float().logsumexp(-1))
        return scores

    def logprobs(self) -> list[list[float]]:
        """Of each row's tokens, and of the padding after them."""
        rows: list[list[float]] = torch.stack(self._steps, 1).tolist()
        return rows


class Pulse(LogitsProcessor):  # type: ignore[misc]
    """Looks on while `generate` runs, and says at every token that it goes on."""

    def __init__(self, on_step: Callable[[], None]) -> None:
        self._on_step = on_step

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores of any shape, which stay as they are."""
        self._on_step()
        return scores


def is_greedy(options: Mapping[str, Any]) -> bool:
    """Whether the likeliest token is taken: of drawn ones and of beams there is no certainty."""
    return not options.get("do_sample") and options.get("num_beams", 1) == 1


def confidence(logprobs: Sequence[float]) -> float | None:
    """Geometric mean of probabilities, from their logarithms; None of nothing."""
    mean = math.fsum(logprobs) / len(logprobs) if logprobs else math.nan
    return math.exp(mean) if math.isfinite(mean) else None


@dataclass(frozen=True, slots=True)
class Said:
    """A generated answer as text; `tokens` counts the one that ends it."""

    text: str
    finish_reason: str
    tokens: int


def defaults(config: GenerationConfig, most_new_tokens: int) -> dict[str, Any]:
    """What a checkpoint's generation config says of our options, within our limit."""
    told = {name: getattr(config, name, None) for name in OPTIONS}
    if config.do_sample:
        told |= {"do_sample": True, **{name: getattr(config, name, None) for name in SAMPLING}}
    told["max_new_tokens"] = min(told["max_new_tokens"] or most_new_tokens, most_new_tokens)
    return {name: value for name, value in told.items() if value is not None}


def padding(tokenizer: Any, ending: Ending) -> int:
    """What is put before a shorter prompt: never a token that an answer could have.

    Attention does not see it, but rules against repetition do.
    """
    candidates = (tokenizer.pad_token_id, tokenizer.bos_token_id, *ending.ids)
    return next((c for c in candidates if c is not None and c not in ending.ids), ending.ids[0])


def generate(  # noqa: PLR0913 - what transformers' own takes
    model: Any,
    tensors: Mapping[str, torch.Tensor],
    options: Mapping[str, Any],
    ending: Ending,
    sampler: LogitsProcessorList | None,
    tokenizer: Any,
    streamer: BaseStreamer | None = None,
) -> list[list[int]]:
    """Answer a batch. Returns each row's new tokens up to its end, that included."""
    config = copy.deepcopy(model.generation_config)
    config.update(
        do_sample=False,  # a sampler makes the likeliest token a drawn one
        temperature=None,
        top_p=None,
        top_k=None,
        min_p=None,
        max_length=None,
        return_dict_in_generate=False,
        eos_token_id=list(ending.ids),
        bad_words_ids=_never(config, ending),
        stop_strings=options.get("stop"),
        **{name: options[name] for name in OPTIONS if name in options},
    )
    if config.pad_token_id is None:
        config.pad_token_id = ending.ids[0]
    output = model.generate(
        **tensors,
        generation_config=config,
        logits_processor=sampler,
        tokenizer=tokenizer,
        streamer=streamer,
    )
    new = output[:, tensors["input_ids"].shape[1] :].tolist()
    return [_until_end(row, ending) for row in new]


def read(ids: Sequence[int], stops: Sequence[str], ending: Ending, tokenizer: Any) -> Said:
    """The text of one row, cut before the first stop string."""
    # A decoder drops the space that a text begins with, and a stop string may begin with it.
    begin: list[int] = tokenizer.encode("a", add_special_tokens=False)
    skipped = len(tokenizer.decode(begin))

    def decoded(count: int) -> str:
        text: str = tokenizer.decode([*begin, *ids[:count]], skip_special_tokens=True)
        return text[skipped:]

    text = decoded(len(ids))
    if found := [text.index(stop) for stop in stops if stop in text]:
        # The fewest tokens that hold a stop string: what follows them is padding.
        tokens = bisect_left(
            range(len(ids) + 1), True, key=lambda n: any(s in decoded(n) for s in stops)
        )
        return Said(text[: min(found)].strip(), "stop", tokens)
    if ids and ids[-1] == ending.utterance:
        return Said(text.strip(), "end_of_utterance", len(ids))
    ended = bool(ids) and ids[-1] in ending.ids
    return Said(text.strip(), "stop" if ended else "length", len(ids))


def _never(config: GenerationConfig, ending: Ending) -> list[list[int]] | None:
    told = [list(words) for words in config.bad_words_ids or ()]
    added = [[token] for token in ending.never if [token] not in told]
    return [*told, *added] or None


def _until_end(row: list[int], ending: Ending) -> list[int]:
    for index, token in enumerate(row):
        if token in ending.ids:
            return row[: index + 1]
    return row
