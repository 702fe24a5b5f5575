"""The next token of each row: rules that hold for all at once, and those that a request brings.

Everything is the library's: the same rules in the same order as `generate` applies them, so that
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

from workers.decoding import sampling
from workers.decoding.generation import Ending

#: What a checkpoint's own generation config may ask that no rule here does.
_UNKNOWN_RULES = (
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


def strange_rules(config: GenerationConfig) -> list[str]:
    """What a checkpoint asks of its answers that only `generate` knows how to do."""
    strange = [name for name in _UNKNOWN_RULES if getattr(config, name, None)]
    if any(len(words) > 1 for words in config.bad_words_ids or ()):
        strange.append("bad_words_ids")
    return strange


def own_rules(options: Mapping[str, Any], seed: int | None) -> LogitsProcessorList | None:
    """What a request changes of the scores before the likeliest is taken; None for nothing."""
    rules = LogitsProcessorList()
    if (penalty := options.get("repetition_penalty") or 1.0) != 1.0:
        rules.append(RepetitionPenaltyLogitsProcessor(penalty=float(penalty)))
    if size := options.get("no_repeat_ngram_size"):
        rules.append(NoRepeatNGramLogitsProcessor(size))
    if options.get("do_sample"):
        assert seed is not None
        rules += sampling.processors(options, [seed])
    return rules or None


class Chooser:
    """Rules for all rows of a model.

    Args:
        ending: What ends its answers, and what must not be in them.
        config: The checkpoint's.
        vocabulary: How many tokens the last layer scores.
    """

    def __init__(
        self, ending: Ending, config: GenerationConfig, vocabulary: int, device: torch.device
    ) -> None:
        never = {*ending.never, *(words[0] for words in config.bad_words_ids or ())}
        self._never = torch.zeros(vocabulary, device=device)
        self._never[[token for token in never if token < vocabulary]] = -torch.inf
        self.ends = frozenset(ending.ids)
        self._ends = torch.tensor(ending.ids, dtype=torch.long, device=device)

    def allowed(self, scores: torch.Tensor, may_end: torch.Tensor) -> torch.Tensor:
        """Scores, float32 (rows, vocabulary), with -inf for what must not be said.

        Args:
            scores: What the last layer says.
            may_end: Whether each row's answer may end with this token, bool (rows,).
        """
        allowed = scores.float() + self._never
        ends = allowed[:, self._ends]
        allowed[:, self._ends] = torch.where(may_end[:, None], ends, -torch.inf)
        return allowed

    @staticmethod
    def likeliest(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The likeliest token of each row, and the logarithm of its probability."""
        tokens = scores.argmax(-1)
        best = scores.gather(-1, tokens[:, None])[:, 0]
        return tokens, best - scores.logsumexp(-1)

    @classmethod
    def by_rules(
        cls, scores: torch.Tensor, rules: LogitsProcessorList, ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same for one row, (vocabulary,), by its request's own rules.

        Args:
            ids: Of its prompt and answer so far.
        """
        token, logprob = cls.likeliest(rules(ids[None].to(scores.device), scores[None]))
        return token[0], logprob[0]
