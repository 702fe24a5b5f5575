"""The runner of transformers' `generate`: batches, padded on the left."""

from collections.abc import Sequence
from typing import Any

from transformers import LogitsProcessor, LogitsProcessorList

from workers.decoding import generation, seeded_sampling
from workers.decoding.grammar import GrammarProcessor
from workers.decoding.penalties import AnswerPenalty
from workers.decoding.streaming import BatchStreamer
from workers.families.answers import answer_streamer, make_answer
from workers.families.architecture import Architecture
from workers.families.base import Answer, Prepared
from workers.families.loaded import LoadedModel


class Generator:
    """Answers items that can be collated, with `generate`."""

    def __init__(self, loaded: LoadedModel, architecture: Architecture) -> None:
        self._loaded, self._architecture = loaded, architecture

    def answer(self, batch: Sequence[Prepared]) -> list[Answer]:
        """Answer a batch, in its order."""
        is_greedy = generation.is_greedy(self._loaded.options(batch[0].request))
        confidence = generation.LogprobRecorder() if is_greedy else None
        output = self.generate_ids(batch, confidence)
        logprobs_of = confidence.logprobs() if confidence else [[] for _ in batch]
        return [
            make_answer(self._loaded, item, ids, "generate", logprobs)
            for item, ids, logprobs in zip(batch, output, logprobs_of, strict=True)
        ]

    def generate_ids(
        self, batch: Sequence[Prepared], watch: LogitsProcessor | None = None
    ) -> list[list[int]]:
        """Generate the tokens of a batch, end tokens included.

        Args:
            watch: A logits processor that only observes; not used when tokens are sampled.

        Raises:
            ItemRefused: A structured answer could not be generated.
        """
        options = {
            **self._loaded.options(batch[0].request),
            "max_new_tokens": self._most_tokens(batch),
        }
        seeds = [item.inputs.seed for item in batch]
        rules = LogitsProcessorList()
        if grammars := [one for item in batch if (one := self._loaded.grammar(item.request))]:
            rules.append(GrammarProcessor(grammars, self._loaded.end_tokens.ids))
        tensors = self._architecture.collate([item.inputs for item in batch])
        rules += AnswerPenalty.for_options(options, tensors["input_ids"].shape[1])
        if options.get("do_sample"):
            rules += seeded_sampling.processors(options, seeds)
        elif watch:
            rules.append(watch)
        if batch[0].on_step:
            rules.append(generation.ProgressHook(batch[0].on_step))
        output = generation.generate(
            self._loaded.model,
            tensors,
            options,
            self._loaded.end_tokens,
            rules,
            self._loaded.tokenizer,
            self._streamer(batch, options),
        )
        for grammar in grammars:
            grammar.check()
        return output

    def _most_tokens(self, batch: Sequence[Prepared]) -> int:
        """Return how many tokens the answers of a batch, whose prompts are padded, may have."""
        longest = max(item.tokens for item in batch)
        return min(self._loaded.most_tokens(item.request, longest) for item in batch)

    def _streamer(self, batch: Sequence[Prepared], options: dict[str, Any]) -> BatchStreamer | None:
        # Beams are only known at the end.
        if options.get("num_beams", 1) > 1 or not any(item.on_text for item in batch):
            return None
        return BatchStreamer(
            [
                answer_streamer(self._loaded, item, options) if item.on_text else None
                for item in batch
            ]
        )
