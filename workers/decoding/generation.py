"""`generate` of transformers with a request's options, and detokenization of what it returns."""

import copy
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
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
class EndTokens:
    """A model's tokens with a meaning for answers: which end one, and which are forbidden in one.

    Attributes:
        ids: Tokens that end an answer.
        end_of_utterance: The one of them that ends a turn, if the model has it.
        forbidden: Image tokens: generated, they would stand for images that do not exist.
        byte_tokens: Tokens of single bytes: a run of them has a text only when it is complete.
    """

    ids: tuple[int, ...]
    end_of_utterance: int | None
    forbidden: tuple[int, ...]
    byte_tokens: frozenset[int] = frozenset()

    @classmethod
    def of(cls, model: Any, tokenizer: Any, image_tokens: Sequence[str]) -> "EndTokens":
        """Read the tokens off a checkpoint's generation config and vocabulary."""
        known = known_tokens(model)
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
            end_of_utterance=utterance,
            forbidden=tuple(
                vocabulary[t] for t in image_tokens if vocabulary.get(t, known) < known
            ),
            byte_tokens=frozenset(
                vocabulary[t] for t in map("<0x{:02X}>".format, range(256)) if t in vocabulary
            ),
        )


def known_tokens(model: Any) -> int:
    """Count the tokens that a model has an embedding for and can generate."""
    rows: int = model.get_output_embeddings().weight.shape[0]
    return rows + int(getattr(model.config, "additional_vocab_size", 0))


class LogprobRecorder(LogitsProcessor):  # type: ignore[misc]
    """Records the log probability of each token that a greedy `generate` chooses."""

    def __init__(self) -> None:
        self._steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Record the highest; scores: float (rows, vocabulary), -inf for forbidden tokens."""
        # Greedy decoding will choose it.
        self._steps.append(scores.amax(-1) - scores.float().logsumexp(-1))
        return scores

    def logprobs(self) -> list[list[float]]:
        """Log probabilities of each row's tokens, and of the padding after them."""
        rows: list[list[float]] = torch.stack(self._steps, 1).tolist()
        return rows


class ProgressHook(LogitsProcessor):  # type: ignore[misc]
    """Calls `on_step` for every token that `generate` generates."""

    def __init__(self, on_step: Callable[[], None]) -> None:
        self._on_step = on_step

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores unchanged."""
        self._on_step()
        return scores


class StopStrings(StoppingCriteria):  # type: ignore[misc]
    """Ends a row once its answer holds a stop string, as continuous batching does.

    The criterion of transformers also looks into the end of the prompt, and into special tokens,
    which no answer shows.
    """

    def __init__(
        self, stops: Sequence[str], prompt_tokens: int, end_tokens: EndTokens, tokenizer: Any
    ) -> None:
        self._stops, self._prompt_tokens = stops, prompt_tokens
        self._end_tokens, self._tokenizer = end_tokens, tokenizer

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return which rows are over: bool (rows,); input_ids: int (rows, tokens)."""
        rows = input_ids[:, self._prompt_tokens :].tolist()
        over = [self._is_over(row) for row in rows]
        return torch.tensor(over, device=input_ids.device)

    def _is_over(self, row: list[int]) -> bool:
        answer = detokenize(row, self._stops, self._end_tokens, self._tokenizer)
        return answer.finish_reason == "stop"


def is_greedy(options: Mapping[str, Any]) -> bool:
    """True for greedy decoding: sampled tokens and beams have no confidence."""
    return not options.get("do_sample") and options.get("num_beams", 1) == 1


def confidence(logprobs: Sequence[float]) -> float | None:
    """Geometric mean of token probabilities, from their logarithms; None without tokens."""
    mean = math.fsum(logprobs) / len(logprobs) if logprobs else math.nan
    return math.exp(mean) if math.isfinite(mean) else None


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """A generated answer as text.

    Attributes:
        tokens: How many they are, the end token included.
        is_trimmed: True if there was white space around the text.
    """

    text: str
    finish_reason: str
    tokens: int
    is_trimmed: bool = False


def defaults(config: GenerationConfig, max_new_tokens: int) -> dict[str, Any]:
    """Read the defaults of request options off a checkpoint's generation config, within a limit."""
    found = {name: getattr(config, name, None) for name in OPTIONS}
    if config.do_sample:
        found |= {"do_sample": True, **{name: getattr(config, name, None) for name in SAMPLING}}
    found["max_new_tokens"] = min(found["max_new_tokens"] or max_new_tokens, max_new_tokens)
    stops = config.stop_strings
    found["stop"] = [stops] if isinstance(stops, str) else stops
    return {name: value for name, value in found.items() if value is not None}


def padding(tokenizer: Any, end_tokens: EndTokens) -> int:
    """Choose the padding token: never one that an answer could contain.

    Attention masks it out, but repetition penalties count it.
    """
    candidates = (tokenizer.pad_token_id, tokenizer.bos_token_id, *end_tokens.ids)
    return next(
        (c for c in candidates if c is not None and c not in end_tokens.ids), end_tokens.ids[0]
    )


def generate(  # noqa: PLR0913 - what transformers' own takes
    model: Any,
    tensors: Mapping[str, torch.Tensor],
    options: Mapping[str, Any],
    end_tokens: EndTokens,
    processors: LogitsProcessorList | None,
    tokenizer: Any,
    streamer: BaseStreamer | None = None,
) -> list[list[int]]:
    """Generate answers for a batch. Returns each row's new tokens, its end token included."""
    config = copy.deepcopy(model.generation_config)
    config.update(
        do_sample=False,  # sampling is a logits processor: seeded noise before argmax
        temperature=None,
        top_p=None,
        top_k=None,
        min_p=None,
        max_length=None,
        return_dict_in_generate=False,
        eos_token_id=list(end_tokens.ids),
        bad_words_ids=_bad_words(config, end_tokens),
        **{name: options[name] for name in OPTIONS if name in options},
    )
    if config.pad_token_id is None:
        config.pad_token_id = end_tokens.ids[0]
    prompt_tokens = tensors["input_ids"].shape[1]
    stopping = StoppingCriteriaList()
    if stops := options.get("stop"):
        stopping.append(StopStrings(stops, prompt_tokens, end_tokens, tokenizer))
    output = model.generate(
        **tensors,
        generation_config=config,
        logits_processor=processors,
        stopping_criteria=stopping,
        streamer=streamer,
    )
    new = output[:, prompt_tokens:].tolist()
    return [_until_end(row, end_tokens) for row in new]


def detokenize(
    ids: Sequence[int], stops: Sequence[str], end_tokens: EndTokens, tokenizer: Any
) -> GeneratedText:
    """Return the text of one answer, cut before the first stop string."""
    # Tokenizers drop the space that a text begins with, but a stop string may begin with it.
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
        return GeneratedText(text[: min(found)].strip(), "stop", tokens)
    reason = "stop" if ids and ids[-1] in end_tokens.ids else "length"
    if ids and ids[-1] == end_tokens.end_of_utterance:
        reason = "end_of_utterance"
    return GeneratedText(text.strip(), reason, len(ids), text != text.strip())


def _bad_words(config: GenerationConfig, end_tokens: EndTokens) -> list[list[int]] | None:
    found = [list(words) for words in config.bad_words_ids or ()]
    added = [[token] for token in end_tokens.forbidden if [token] not in found]
    return [*found, *added] or None


def _until_end(row: list[int], end_tokens: EndTokens) -> list[int]:
    for index, token in enumerate(row):
        if token in end_tokens.ids:
            return row[: index + 1]
    return row
