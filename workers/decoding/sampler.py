"""The sampler: chooses the next token of each sequence from its logits.

Logits processors are those of transformers, in the order in which `generate` applies them, so that
greedy answers are the same, token for token.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from workers.decoding import seeded_sampling
from workers.decoding.generation import EndTokens
from workers.decoding.penalties import AnswerPenalty

#: Options of a checkpoint's generation config that only `generate` implements.
_UNSUPPORTED_OPTIONS = (
    "sequence_bias",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "exponential_decay_length_penalty",
    "encoder_repetition_penalty",
    "encoder_no_repeat_ngram_size",
    "guidance_scale",
    "watermarking_config",
    "remove_invalid_values",
    "renormalize_logits",
    "penalty_alpha",
    "prompt_lookup_num_tokens",
    "dola_layers",
    "min_length",
)


def unsupported_rules(config: GenerationConfig) -> list[str]:
    """Options that a checkpoint sets and that only `generate` implements."""
    unsupported = [name for name in _UNSUPPORTED_OPTIONS if getattr(config, name, None)]
    if any(len(words) > 1 for words in config.bad_words_ids or ()):
        unsupported.append("bad_words_ids")
    return unsupported


def request_processors(
    options: Mapping[str, Any], seed: int | None, prompt_tokens: int
) -> LogitsProcessorList | None:
    """Build the logits processors of a request's options; None if it needs none."""
    processors = LogitsProcessorList()
    if (penalty := options.get("repetition_penalty") or 1.0) != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(penalty=float(penalty)))
    if size := options.get("no_repeat_ngram_size"):
        processors.append(NoRepeatNGramLogitsProcessor(size))
    processors += AnswerPenalty.for_options(options, prompt_tokens)
    if options.get("do_sample"):
        assert seed is not None
        processors += seeded_sampling.processors(options, [seed])
    return processors or None


class Sampler:
    """Chooses tokens from the logits of one model.

    Args:
        end_tokens: Tokens that end an answer, and tokens that an answer must not contain.
        config: The checkpoint's generation config.
        vocabulary: Tokens that the LM head scores.
    """

    def __init__(
        self, end_tokens: EndTokens, config: GenerationConfig, vocabulary: int, device: torch.device
    ) -> None:
        forbidden = {*end_tokens.forbidden, *(words[0] for words in config.bad_words_ids or ())}
        self._forbidden = torch.zeros(vocabulary, device=device)
        self._forbidden[[token for token in forbidden if token < vocabulary]] = -torch.inf
        self.vocabulary, self.end_ids = vocabulary, frozenset(end_tokens.ids)
        self._end_ids = torch.tensor(end_tokens.ids, dtype=torch.long, device=device)

    def mask(self, logits: torch.Tensor, may_end: torch.Tensor) -> torch.Tensor:
        """Set the logits of forbidden tokens to -inf.

        Args:
            logits: Output of the LM head, (rows, vocabulary).
            may_end: True where a row's answer may end with this token, bool (rows,).

        Returns:
            float32 (rows, vocabulary).
        """
        masked = logits.float() + self._forbidden
        ends = masked[:, self._end_ids]
        masked[:, self._end_ids] = torch.where(may_end[:, None], ends, -torch.inf)
        return masked

    @staticmethod
    def greedy(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Choose the token of the highest probability in each row; returns tokens and logprobs."""
        tokens = logits.argmax(-1)
        chosen = logits.gather(-1, tokens[:, None])[:, 0]
        return tokens, chosen - logits.logsumexp(-1)

    @classmethod
    def sample(
        cls, logits: torch.Tensor, processors: LogitsProcessorList, ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Choose the token of one row with the request's own logits processors.

        Args:
            logits: (vocabulary,).
            ids: Token ids of the prompt and of the answer so far.
        """
        token, logprob = cls.greedy(processors(ids[None].to(logits.device), logits[None]))
        return token[0], logprob[0]
