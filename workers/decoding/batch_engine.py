"""Continuous batching over a fixed number of sequence slots.

Longer than 300 lines because prefill, decode and readback share the tensors of the slots, and none
can be understood without the others.

    slot 0   ▓▓▓▓ a red square ▏▓▓▓ blue ▏▓▓▓▓▓▓ two circles and
    slot 1   ▓▓▓▓▓▓ the small one is on the left ▏▓▓ yes ▏
    slot 2   ▓▓ no ▏▓▓▓▓▓ three ▏▓▓▓▓ a black triangle above

`admit` prefills the prompts (▓) of new sequences in one pass; `decode_step` generates the next
token of every sequence. A sequence leaves its slot as soon as it is finished, and nothing is
padded. (Yu et al. 2022, "Orca".)

With static shapes a step always computes all slots, so that an answer is the same to the last bit
however many sequences there are, and so that a GPU can replay the step as a CUDA graph. Otherwise
the slots in use are kept together at the front, and only those are computed.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import LogitsProcessorList

from workers.decoding import metrics
from workers.decoding.cuda_graphs import CudaGraphs
from workers.decoding.grammar import AnswerGrammar, TokenMasks
from workers.decoding.kv_cache import KVCache, SlotConfig
from workers.decoding.prompt import EncodedPrompt, ImageInput
from workers.decoding.sampler import Sampler
from workers.decoding.tensor_cache import TensorCache
from workers.decoding.text_decoder import PrefillBatch, TextDecoder

#: A prefix shorter than this is not worth a place in the prefix cache.
MIN_PREFIX_TOKENS = 16


@dataclass(eq=False, slots=True)
class ActiveSequence:
    """A sequence in a slot: a prompt and the answer generated so far.

    Attributes:
        max_tokens: Tokens after which the answer is cut.
        min_tokens: Tokens before which the model may not end the answer.
        processors: The request's own logits processors; see sampler.request_processors.
        grammar: What its answer must look like, if that is said.
        should_stop: Called after each token with all tokens so far. True ends the answer.
        tokens: Generated tokens, the end token included.
        logprobs: Log probability of each token. NaN or infinite means that the model has failed.
        launched: Tokens whose decode step was launched, those not read back yet included.
    """

    prompt: EncodedPrompt
    max_tokens: int
    min_tokens: int = 0
    processors: LogitsProcessorList | None = None
    grammar: AnswerGrammar | None = None
    should_stop: Callable[[Sequence[int]], bool] | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    slot: int = -1
    launched: int = 0

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt.ids)

    @property
    def is_failed(self) -> bool:
        """True if the model's logits were NaN or infinite."""
        return bool(self.logprobs) and not math.isfinite(self.logprobs[-1])


class AsyncCopy:
    """A copy of a tensor that is on its way from the device to host memory."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        self.host = tensor.clone()
        if tensor.is_cuda:
            self.host = torch.empty_like(tensor, device="cpu", pin_memory=True)
            self.host.copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def wait(self) -> list[Any]:
        """Wait for the copy and return its values."""
        if self._arrived:
            self._arrived.synchronize()
        values: list[Any] = self.host.tolist()
        return values


class BatchEngine:
    """Decodes sequences of one model by continuous batching.

    Args:
        decoder: Prefill and decode steps of the text model.
        encode_images: The vision encoder: images to features, one tensor (rows, width) each.
        lm_head: The layer from hidden states to logits.
        sampler: Chooses tokens from logits.
        config: Number and size of the slots.
    """

    def __init__(
        self,
        decoder: TextDecoder,
        encode_images: Callable[[Sequence[ImageInput]], list[torch.Tensor]],
        lm_head: Callable[[torch.Tensor], torch.Tensor],
        sampler: Sampler,
        config: SlotConfig,
    ) -> None:
        self.decoder, self.encode_images = decoder, encode_images
        self._lm_head, self.sampler = lm_head, sampler
        self._device = config.device
        count, length, device = config.slots, config.length, config.device
        self.config, self.count, self.length = config, count, length
        self._cache = KVCache(decoder.layers, decoder.kv_heads, decoder.head_size, config)
        decoder.allocate(count)
        integers = {"dtype": torch.long, "device": device}
        # Of each slot: last token, its position, and the first position where the answer may end.
        self._tokens, self._positions, self._may_end_from = (
            torch.zeros(count, **integers) for _ in range(3)
        )
        self._ids = torch.zeros(count, length, **integers)
        self._slot_numbers = torch.arange(count, device=device)
        self._free = list(range(count - 1, -1, -1))
        self._active: dict[int, ActiveSequence] = {}
        self._unread: deque[tuple[AsyncCopy, AsyncCopy, list[tuple[ActiveSequence, int]]]] = deque()
        self._masks = TokenMasks(sampler.vocabulary, device)
        self._features = TensorCache(config.features_bytes)
        self._prefixes = TensorCache(config.features_bytes)
        self.graphs = CudaGraphs() if config.static_shapes and device.type == "cuda" else None

    def fits(self, *, prompt_tokens: int, images: int, max_tokens: int) -> bool:
        """True if a slot has room for a prompt and the longest answer to it."""
        max_images = self.decoder.max_images
        # A step that is launched before the end is read back writes one token more.
        has_room = prompt_tokens + max_tokens + 1 <= self.length
        return has_room and (not max_images or images <= max_images)

    # ---- prefill ----------------------------------------------------------------------

    def admit(self, sequences: Sequence[ActiveSequence]) -> list[ActiveSequence]:
        """Prefill new sequences and generate their first tokens.

        If an error is raised, none of the sequences has been admitted.

        Returns:
            Sequences that are finished already.
        """
        alone = self.config.batch_invariant
        groups = [[sequence] for sequence in sequences] if alone else [list(sequences)]
        admitted: list[ActiveSequence] = []
        finished: list[ActiveSequence] = []
        try:
            for group in groups:
                admitted += group
                finished += self._prefill(group)
        except BaseException:
            self.remove([one for one in admitted if self._active.get(one.slot) is one])
            raise
        return finished

    def _prefill(self, sequences: list[ActiveSequence]) -> list[ActiveSequence]:
        self._masks.begin_masks([(one.grammar, None) for one in sequences if one.grammar])
        slots = self._free[-len(sequences) :][::-1]
        starts = [
            self._restore_prefix(sequence, slot)
            for sequence, slot in zip(sequences, slots, strict=True)
        ]
        prompts = [sequence.prompt for sequence in sequences]
        at, lengths, min_tokens, may_end = self._to_device(
            slots,
            [sequence.prompt_length for sequence in sequences],
            [sequence.min_tokens for sequence in sequences],
            [int(sequence.min_tokens <= 0) for sequence in sequences],
        )
        features = self._features_of(
            [
                prompt.images[self.decoder.first_image_needed(prompt, start) :]
                for prompt, start in zip(prompts, starts, strict=True)
            ]
        )
        batch = PrefillBatch(prompts, slots, starts, self._device)
        hidden = self.decoder.prefill(batch, features, self._cache)[batch.ends]
        logits = self.sampler.mask(self._lm_head(hidden), may_end.bool())
        tokens, logprobs = self.sampler.greedy(logits)
        for slot, sequence in zip(slots, sequences, strict=True):
            if sequence.processors:
                self._ids[slot, : sequence.prompt_length] = sequence.prompt.ids.to(self._device)
        places = [
            (one, number, slot)
            for number, (one, slot) in enumerate(zip(sequences, slots, strict=True))
        ]
        self._choose_again(logits, tokens, logprobs, places)
        self._tokens[at], self._positions[at] = tokens, lengths
        self._may_end_from[at] = lengths + min_tokens - 1
        for sequence, slot, start in zip(sequences, slots, starts, strict=True):
            self._cache_prefix(sequence, slot, start)
        del self._free[-len(sequences) :]
        for sequence, slot in zip(sequences, slots, strict=True):
            sequence.slot, sequence.launched = slot, 1
            self._active[slot] = sequence
        return self._read_back(tokens, logprobs, [(one, n) for n, one in enumerate(sequences)])

    def _to_device(self, *columns: Sequence[int]) -> torch.Tensor:
        """Copy integers to the device in one transfer, before anything that takes long."""
        return torch.tensor(columns).to(self._device, non_blocking=True)

    def _features_of(self, images: Sequence[Sequence[ImageInput]]) -> list[list[torch.Tensor]]:
        found: dict[bytes, torch.Tensor] = {}
        missing: dict[bytes, ImageInput] = {}
        for image in (image for own in images for image in own):
            cached = self._features.get(image.key)
            metrics.count_lookup("image_features", is_hit=cached is not None)
            if cached:
                [found[image.key]] = cached
            else:
                missing[image.key] = image
        encoded = self.encode_images(list(missing.values()))
        for key, features in zip(missing, encoded, strict=True):
            found[key] = features
            self._features.put(key, [features])
        return [[found[image.key] for image in own] for own in images]

    def _prefix_key(self, sequence: ActiveSequence) -> bytes | None:
        prompt = sequence.prompt
        if prompt.prefix_tokens < MIN_PREFIX_TOKENS or self.config.batch_invariant:
            return None
        images = b"".join(image.key for image in prompt.images[: prompt.prefix_images])
        return bytes(prompt.ids[: prompt.prefix_tokens].numpy().data) + images

    def _restore_prefix(self, sequence: ActiveSequence, slot: int) -> int:
        if (key := self._prefix_key(sequence)) is None:
            return 0
        prefix = self._prefixes.get(key)
        metrics.count_lookup("prefixes", is_hit=prefix is not None)
        if prefix is None:
            return 0
        self._cache.write_prefix(slot, prefix)
        return sequence.prompt.prefix_tokens

    def _cache_prefix(self, sequence: ActiveSequence, slot: int, start: int) -> None:
        key = self._prefix_key(sequence)
        if key is not None and not start and key not in self._prefixes:
            self._prefixes.put(key, self._cache.prefix(slot, sequence.prompt.prefix_tokens))

    def free_caches(self) -> None:
        """Free the caches of image features and prefixes."""
        self._features.clear()
        self._prefixes.clear()

    # ---- decode -----------------------------------------------------------------------

    def decode_step(self) -> list[ActiveSequence]:
        """Generate the next token of every sequence.

        Returns:
            Sequences that are finished.
        """
        finished: list[ActiveSequence] = []
        if not self.config.static_shapes:
            finished += self._read_for_masks()  # before the launch, because it moves slots
        running = [one for one in self._active.values() if one.launched < one.max_tokens]
        if running:
            logits, logprobs = self._launch(running)
            finished += self._read_for_masks()  # while the device computes
            self._choose_again(
                logits,
                self._tokens,
                logprobs,
                [(one, one.slot, one.slot) for one in running if self._is_active(one)],
            )
            for one in running:
                one.launched += 1
            finished += self._read_back(
                self._tokens, logprobs, [(one, one.slot) for one in running]
            )
        while self._unread and (len(self._unread) > 1 or not running):
            finished += self._read_oldest()
        return finished

    def _launch(self, sequences: Sequence[ActiveSequence]) -> tuple[torch.Tensor, torch.Tensor]:
        """Launch one step. Returns logits and log probabilities of the likeliest tokens."""
        visible = max(one.prompt_length + one.launched for one in sequences)
        if self.config.batch_invariant:
            visible = self.length  # so that not even the length of a sum depends on the others
        if self.graphs:
            visible = self.graphs.bucket(visible, self.length)
            logits, logprobs = self.graphs.run(visible, lambda: self._forward(self.count, visible))
            return logits, logprobs
        count = self.count if self.config.static_shapes else len(self._active)
        return self._forward(count, visible)

    def _choose_again(
        self,
        logits: torch.Tensor,
        tokens: torch.Tensor,
        logprobs: torch.Tensor,
        places: Sequence[tuple[ActiveSequence, int, int]],
    ) -> None:
        """Choose the tokens of sequences that have a grammar, or logits processors of their own.

        Args:
            tokens: Of each row the likeliest token; changed here, as are the logprobs.
            places: Sequences, the row of each in the tensors, and its slot.
        """
        own: dict[int, torch.Tensor] = {}
        if grammars := {row: one.grammar for one, row, _ in places if one.grammar}:
            rows = list(grammars)
            masked = self._masks.apply(logits, rows, list(grammars.values()))
            tokens[rows], logprobs[rows] = self.sampler.greedy(masked)
            own = dict(zip(rows, masked, strict=True))
        for sequence, row, slot in places:
            if sequence.processors:
                ids = self._ids[slot, : sequence.prompt_length + sequence.launched]
                tokens[row], logprobs[row] = self.sampler.sample(
                    own.get(row, logits[row]), sequence.processors, ids
                )

    def _forward(self, count: int, visible: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute one step of the first `count` slots. No shape depends on their contents."""
        tokens, positions = self._tokens[:count], self._positions[:count]
        self._ids[self._slot_numbers[:count], positions] = tokens
        hidden = self.decoder.decode_step(tokens, positions, visible, self._cache)
        may_end = positions >= self._may_end_from[:count]
        logits = self.sampler.mask(self._lm_head(hidden), may_end)
        greedy, logprobs = self.sampler.greedy(logits)
        tokens.copy_(greedy)
        positions.add_(1).clamp_(max=self.length - 1)
        return logits, logprobs

    # ---- readback ---------------------------------------------------------------------

    def _read_back(
        self,
        tokens: torch.Tensor,
        logprobs: torch.Tensor,
        places: list[tuple[ActiveSequence, int]],
    ) -> list[ActiveSequence]:
        """Read a step's tokens: at once, or after the next step has been launched.

        Args:
            places: Each sequence of the step, and its index in the tensors.
        """
        if not self.config.async_readback:
            return self._append(tokens.tolist(), logprobs.tolist(), places)
        self._unread.append((AsyncCopy(tokens), AsyncCopy(logprobs), places))
        return []

    def _read_for_masks(self) -> list[ActiveSequence]:
        """Read back all steps if a mask depends on their tokens."""
        finished: list[ActiveSequence] = []
        while self._unread and any(one.grammar for one in self._active.values()):
            finished += self._read_oldest()
        return finished

    def _read_oldest(self) -> list[ActiveSequence]:
        tokens, logprobs, places = self._unread.popleft()
        return self._append(tokens.wait(), logprobs.wait(), places)

    def _append(
        self,
        tokens: Sequence[int],
        logprobs: Sequence[float],
        places: Sequence[tuple[ActiveSequence, int]],
    ) -> list[ActiveSequence]:
        finished = []
        advanced: list[tuple[AnswerGrammar, int | None]] = []
        for sequence, place in places:
            if not self._is_active(sequence):
                continue  # finished before this step was launched
            sequence.tokens.append(tokens[place])
            sequence.logprobs.append(logprobs[place])
            is_last = (
                sequence.tokens[-1] in self.sampler.end_ids
                or len(sequence.tokens) >= sequence.max_tokens
            )
            # Called in any case: it may stream the answer.
            should_stop = sequence.should_stop and sequence.should_stop(sequence.tokens)
            if should_stop or is_last or sequence.is_failed:
                finished.append(sequence)
            elif sequence.grammar:
                advanced.append((sequence.grammar, sequence.tokens[-1]))
        if advanced:
            self._masks.begin_masks(advanced)
        self.remove(finished)
        return finished

    def _is_active(self, sequence: ActiveSequence) -> bool:
        return self._active.get(sequence.slot) is sequence

    def clear(self) -> None:
        """Remove all sequences, also those of a step that has failed."""
        self._unread.clear()
        self.remove(list(self._active.values()))

    def remove(self, sequences: Sequence[ActiveSequence]) -> None:
        """Take sequences out of their slots, finished or not."""
        # From the last slot on, so that none is moved that is about to be removed.
        for sequence in sorted(sequences, key=lambda one: one.slot, reverse=True):
            del self._active[sequence.slot]
            if sequence.is_failed:
                self._cache.clear_slot(sequence.slot)
                self.decoder.clear_slot(sequence.slot)
            if self.config.static_shapes:
                self._free.append(sequence.slot)
            else:
                self._close_gap(sequence.slot)

    def _close_gap(self, slot: int) -> None:
        """Move the last sequence into an emptied slot, so that the slots in use are contiguous."""
        last = len(self._active)
        self._free.append(last)
        if slot == last:
            return
        sequence = self._active.pop(last)
        self._cache.move_slot(last, slot, sequence.prompt_length + sequence.launched)
        self.decoder.move_slot(last, slot)
        for values in (self._tokens, self._positions, self._may_end_from, self._ids):
            values[slot] = values[last]
        sequence.slot = slot
        self._active[slot] = sequence
