"""Structured answers: which tokens may come next, by the grammar of each sequence.

    structure ─▶ compiled once ─▶ AnswerGrammar, one for each sequence
                                    token ─▶ mask of the next, in a thread while the model runs
                                                ─▶ TokenMasks.apply to the logits

The masks of all sequences are computed in one call without Python's lock, after a token is known
and before the next logits are. Sequences without a grammar take no part in any of it.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import llguidance.hf
import llguidance.numpy
import numpy as np
import torch
from llguidance import LLExecutor, LLMatcher
from transformers import LogitsProcessor

from db.grammars.grammar import grammar_of, reason
from db.vocabulary.errors import ItemRefused
from db.vocabulary.structures import ANY_OBJECT, Structure

#: Structures that stay compiled.
COMPILED = 64
#: What every vocabulary must be able to say.
_PROBE = '{"name": "a b", "list": [1, -2.5, true, null]}'

log = logging.getLogger(__name__)


class AnswerGrammar:
    """The grammar of one answer, and how far the answer has come in it.

    Attributes:
        bits: Mask of the next token, int32 (1, vocabulary / 32 rounded up): bit i of word w is set
            if token 32 × w + i may come next.
    """

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self.matcher = matcher
        self.bits = llguidance.numpy.allocate_token_bitmask(1, vocabulary)

    def check(self) -> None:
        """Raise if the answer could not follow the grammar to its end.

        Raises:
            ItemRefused: It became too complex on the way.
        """
        if error := reason(self.matcher.get_error()):
            raise ItemRefused(f"the answer cannot follow what the request asks for: {error}")


class Grammars:
    """Compiles structures for the vocabulary of one model. Thread-safe.

    Args:
        tokenizer: A fast tokenizer.
        end_ids: Tokens that end an answer.
    """

    def __init__(self, tokenizer: Any, end_ids: Sequence[int]) -> None:
        self._vocabulary = llguidance.hf.from_tokenizer(tokenizer, eos_token=list(end_ids))
        self._compiled = lru_cache(COMPILED)(self._compile)

    @classmethod
    def for_tokenizer(cls, tokenizer: Any, end_ids: Sequence[int]) -> "Grammars | None":
        """Return the grammars of a vocabulary, or None if it cannot follow any."""
        try:
            grammars = cls(tokenizer, end_ids)
            probe = grammars.new_answer(Structure("schema", ANY_OBJECT)).matcher
            ids = tokenizer.encode(_PROBE, add_special_tokens=False)
            is_good = probe.consume_tokens(ids) and probe.is_accepting()
        except (ValueError, RuntimeError, ItemRefused) as error:
            log.warning("no structured answers with this tokenizer: %s", error)
            return None
        if not is_good:
            log.warning("no structured answers with this tokenizer: it cannot say JSON")
        return grammars if is_good else None

    def new_answer(self, structure: Structure) -> AnswerGrammar:
        """Return the grammar of a new answer.

        Raises:
            ItemRefused: There is no such grammar.
        """
        return AnswerGrammar(
            self._compiled(structure).deep_copy(), int(self._vocabulary.vocab_size)
        )

    def _compile(self, structure: Structure) -> LLMatcher:
        matcher = LLMatcher(self._vocabulary, grammar_of(structure), log_level=0)
        if not matcher.is_error():
            matcher.compute_bitmask()  # most of the work: every answer begins with this mask
        if matcher.is_error():
            error = reason(matcher.get_error())
            raise ItemRefused(f"the {structure.form} cannot be followed: {error}")
        return matcher


class TokenMasks:
    """Computes masks in a thread of its own, and applies them to logits.

    Args:
        vocabulary: Tokens that the LM head scores.
    """

    def __init__(self, vocabulary: int, device: torch.device) -> None:
        self._vocabulary, self._device = vocabulary, device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="masks")
        self._executor: LLExecutor | None = None
        self._pending: Future[None] | None = None
        self._bits = torch.arange(32, dtype=torch.int32, device=device)

    def begin_masks(self, advanced: Sequence[tuple[AnswerGrammar, int | None]]) -> None:
        """Begin to compute the next masks of some answers.

        Args:
            advanced: Each grammar, and the token that its answer has got; None at its beginning.
        """
        self._wait()
        if advanced:
            self._pending = self._thread.submit(self._compute, advanced)

    def apply(
        self, logits: torch.Tensor, rows: Sequence[int], grammars: Sequence[AnswerGrammar]
    ) -> torch.Tensor:
        """Return some rows of logits with those of tokens that may not come next at -inf.

        Args:
            logits: (all rows, vocabulary).
            rows: Rows of the grammars.
        """
        self._wait()
        words = torch.from_numpy(np.concatenate([grammar.bits for grammar in grammars]))
        if self._device.type == "cuda":
            words = words.pin_memory().to(self._device, non_blocking=True)
        allowed = (words[:, :, None] >> self._bits & 1).flatten(1)[:, : self._vocabulary].bool()
        chosen = logits[list(rows)]
        if missing := self._vocabulary - allowed.shape[1]:
            allowed = torch.nn.functional.pad(allowed, (0, missing))
        return chosen.masked_fill(~allowed, -torch.inf)

    def _wait(self) -> None:
        if self._pending:
            self._pending.result()
            self._pending = None

    def _compute(self, advanced: Sequence[tuple[AnswerGrammar, int | None]]) -> None:
        if self._executor is None:
            self._executor = LLExecutor()
        if tokens := [(one.matcher, token) for one, token in advanced if token is not None]:
            self._executor.consume_token_par(tokens)
        if len(advanced) == 1:
            llguidance.numpy.fill_next_token_bitmask(advanced[0][0].matcher, advanced[0][0].bits)
            return
        together = np.zeros((len(advanced), advanced[0][0].bits.shape[1]), dtype=np.int32)
        matchers = [(one.matcher, row) for row, (one, _) in enumerate(advanced)]
        llguidance.numpy.fill_next_token_bitmask_par(self._executor, matchers, together)
        for (one, _), bits in zip(advanced, together, strict=True):
            one.bits[0] = bits


class GrammarProcessor(LogitsProcessor):  # type: ignore[misc]
    """The same masks in a batch of `generate`, each row of which has a grammar.

    Args:
        end_ids: Tokens that end an answer; what follows one is padding.
    """

    def __init__(self, grammars: Sequence[AnswerGrammar], end_ids: Sequence[int]) -> None:
        self._end_ids = frozenset(end_ids)
        self._left = dict(enumerate(grammars))
        self._masks: TokenMasks | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores with those of forbidden tokens at -inf.

        Args:
            input_ids: int (rows, tokens).
            scores: float (rows, vocabulary).
        """
        advanced: list[tuple[AnswerGrammar, int | None]] = []
        if self._masks is None:
            self._masks = TokenMasks(scores.shape[-1], scores.device)
            advanced = [(one, None) for one in self._left.values()]
        else:
            last = input_ids[:, -1].tolist()
            self._left = {
                row: one for row, one in self._left.items() if last[row] not in self._end_ids
            }
            advanced = [(one, last[row]) for row, one in self._left.items()]
        self._masks.begin_masks(advanced)
        rows = list(self._left)
        if rows:
            scores = scores.clone()
            scores[rows] = self._masks.apply(scores, rows, list(self._left.values()))
        return scores
