"""Continuous batching of a family's items: from prepared items to sequences, and back to answers.

    Prepared ─▶ ActiveSequence ─▶ BatchEngine ─▶ tokens ─▶ Answer

When a model is loaded, its answers to some items are compared with those of `generate`. A model
that differs, or that cannot be batched so, is served by `generate`, and its card says why
(families/family.py).
"""

import logging
from collections.abc import Sequence

import psutil
import torch

from db.vocabulary.errors import EngineError, IdefiqError, ItemRefused
from workers.decoding import generation
from workers.decoding.batch_engine import ActiveSequence, BatchEngine
from workers.decoding.kv_cache import SlotConfig
from workers.decoding.prompt import EncodedPrompt, ImageInput
from workers.decoding.sampler import Sampler, request_processors
from workers.decoding.text_decoder import TextDecoder
from workers.families.answers import answer_streamer, make_answer
from workers.families.architecture import Architecture, Inputs
from workers.families.base import Answer, Prepared, SlotFull
from workers.families.loaded import LoadedModel
from workers.metrics import step

#: Most slots, unless the settings say how many: beyond it a step only takes longer.
MAX_SLOTS_GPU, MAX_SLOTS_CPU = 128, 64
#: Share of the free memory that the KV cache may take. The vision encoder and prefill need the
#: rest; on a CPU other programs need some too.
GPU_MEMORY_SHARE, CPU_MEMORY_SHARE = 0.5, 0.25

#: An item is accepted if its prompt leaves a slot's length divided by this for the answer.
ANSWER_SHARE = 4

log = logging.getLogger(__name__)


class ImageEncoder:
    """Encodes images with the vision encoder, so many patches at once."""

    def __init__(self, architecture: Architecture, patches_at_once: int) -> None:
        self._architecture, self._patches_at_once = architecture, patches_at_once

    def __call__(self, images: Sequence[ImageInput]) -> list[torch.Tensor]:
        """Return the features of each image; see Architecture.encode_images."""
        if not images:
            return []
        with step("encode"):
            return self._architecture.encode_images(images, self._patches_at_once)

    def encode_fewer(self) -> None:
        """Halve the number of patches at once."""
        self._patches_at_once = max(1, self._patches_at_once // 2)


class ContinuousBatcher:
    """Answers items by continuous batching; see SlotEngine.

    Args:
        loaded: The model that the items were prepared for.
        engine: Its batch engine.
        image_encoder: What encodes images for the engine.
    """

    def __init__(
        self, loaded: LoadedModel, engine: BatchEngine, image_encoder: ImageEncoder
    ) -> None:
        self._loaded, self.engine, self._image_encoder = loaded, engine, image_encoder
        self._items: dict[ActiveSequence, Prepared] = {}

    @property
    def count(self) -> int:
        """See SlotEngine."""
        return self.engine.count

    @property
    def length(self) -> int:
        """Tokens that a slot holds."""
        return self.engine.length

    def accepts(self, item: Prepared) -> bool:
        """See SlotEngine. Beam search and label scores are left to `generate`.

        An item whose `max_new_tokens` is more than its slot has room for is accepted all the same:
        many programs always ask for thousands of tokens, and few answers need them.
        """
        options = self._loaded.options(item.request)
        if item.inputs.suffixes or options.get("num_beams", 1) > 1:
            return False
        most = self._loaded.most_tokens(item.request, item.tokens)
        return self.engine.fits(
            prompt_tokens=item.tokens,
            images=len(item.inputs.images),
            max_tokens=min(most, self.length // ANSWER_SHARE),
        )

    def prefill_cost(self, item: Prepared) -> int:
        """See SlotEngine. To encode a patch takes about as long as to prefill a token."""
        pixels = sum(image.pixel_count for image in item.inputs.images)
        return item.tokens + int(pixels // self._loaded.patch_pixels)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def admit(self, items: Sequence[Prepared]) -> list[tuple[Prepared, Answer | IdefiqError]]:
        """See SlotEngine."""
        sequences = [self.sequence(item) for item in items]
        with _memory_errors():
            finished = self.engine.admit(sequences)
        self._items |= dict(zip(sequences, items, strict=True))
        return self._answers(finished)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def decode_step(self) -> list[tuple[Prepared, Answer | IdefiqError]]:
        """See SlotEngine."""
        with _memory_errors():
            finished = self.engine.decode_step()
        return self._answers(finished)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def clear(self) -> None:
        """See SlotEngine."""
        self.engine.clear()
        self._items.clear()

    def free_caches(self) -> None:
        """See SlotEngine."""
        self.engine.free_caches()

    def reduce_memory(self) -> None:
        """See SlotEngine."""
        self.free_caches()
        self._image_encoder.encode_fewer()

    def generate(self, items: Sequence[Prepared]) -> list[ActiveSequence]:
        """Generate the tokens of up to `count` items, without making answers of them."""
        sequences = [self.sequence(item) for item in items]
        with torch.inference_mode():
            left = len(sequences) - len(self.engine.admit(sequences))
            while left:
                left -= len(self.engine.decode_step())
        return sequences

    def sequence(self, item: Prepared) -> ActiveSequence:
        """Make the sequence that generates an item's answer."""
        options = self._loaded.options(item.request)
        return ActiveSequence(
            _prompt(self._loaded, item.inputs),
            max_tokens=min(
                self._loaded.most_tokens(item.request, item.tokens), self.length - item.tokens - 1
            ),
            min_tokens=int(options.get("min_new_tokens") or 0),
            processors=request_processors(options, item.inputs.seed, item.tokens),
            grammar=self._loaded.grammar(item.request),
            should_stop=answer_streamer(self._loaded, item, options),
        )

    def _answers(
        self, finished: Sequence[ActiveSequence]
    ) -> list[tuple[Prepared, Answer | IdefiqError]]:
        items = [self._items.pop(sequence) for sequence in finished]
        return [
            (item, self._answer(item, sequence))
            for item, sequence in zip(items, finished, strict=True)
        ]

    def _answer(self, item: Prepared, sequence: ActiveSequence) -> Answer | IdefiqError:
        if sequence.is_failed and sequence.grammar and not sequence.grammar.bits.any():
            return ItemRefused("no token of the model fits what the request asks for")
        if sequence.is_failed:
            return EngineError("the model's logits are not finite")
        options = self._loaded.options(item.request)
        logprobs = sequence.logprobs if generation.is_greedy(options) else ()
        try:
            if sequence.grammar:
                sequence.grammar.check()
            answer = make_answer(self._loaded, item, sequence.tokens, "slots", logprobs)
            is_cut = (
                answer.finish_reason == "length" and len(sequence.tokens) == sequence.max_tokens
            )
            most = self._loaded.most_tokens(item.request, item.tokens)
            if is_cut and sequence.max_tokens < most:
                return SlotFull("the answer is longer than its slot")
            return answer
        except IdefiqError as error:
            return error
        except Exception as error:  # one answer must not fail its neighbours
            log.exception("an answer could not be detokenized")
            return EngineError(f"the answer could not be detokenized: {type(error).__name__}")


def slot_config(loaded: LoadedModel, text_decoder: TextDecoder) -> SlotConfig:
    """Choose as many slots as fit into memory beside the model."""
    settings, model, device = loaded.settings, loaded.model, loaded.device
    context = loaded.context or settings.slot_tokens
    length = min(settings.slot_tokens, context)
    per_slot = (
        2
        * text_decoder.layers
        * text_decoder.kv_heads
        * length
        * text_decoder.head_size
        * model.dtype.itemsize
        + text_decoder.slot_bytes()
    )
    on_gpu = device.type == "cuda"
    if on_gpu:
        available = GPU_MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]
    else:
        available = CPU_MEMORY_SHARE * psutil.virtual_memory().available
    max_slots = MAX_SLOTS_GPU if on_gpu else MAX_SLOTS_CPU
    count = settings.slots or max(1, min(max_slots, int(available // per_slot)))
    log.info(
        "KV cache of %s: %d slots of %d tokens, %.0f MiB",
        loaded.card.name,
        count,
        length,
        count * per_slot / 2**20,
    )
    return SlotConfig(
        slots=count,
        length=length,
        static_shapes=on_gpu or model.dtype != torch.float32 or settings.invariant,
        batch_invariant=settings.invariant,
        async_readback=on_gpu,
        features_bytes=settings.features_bytes,
        dtype=model.dtype,
        device=device,
    )


def build(
    loaded: LoadedModel,
    architecture: Architecture,
    text_decoder: TextDecoder,
    config: SlotConfig,
) -> ContinuousBatcher:
    """Build the continuous batcher of a model on which `attention.install` was called."""
    model = loaded.model
    lm_head = model.get_output_embeddings()
    vocabulary = generation.known_tokens(model)
    sampler = Sampler(loaded.end_tokens, model.generation_config, vocabulary, config.device)
    encoder = ImageEncoder(
        architecture, 1 if config.batch_invariant else loaded.settings.patches_at_once
    )
    with torch.inference_mode():
        engine = BatchEngine(text_decoder, encoder, lm_head, sampler, config)
    return ContinuousBatcher(loaded, engine, encoder)


def _prompt(loaded: LoadedModel, inputs: Inputs) -> EncodedPrompt:
    ids = inputs.tensors["input_ids"]
    prefix = 0
    if 0 < inputs.example_images < len(inputs.images):
        # Up to the first token of the first image that does not belong to an example.
        positions = (ids == loaded.image_token_id).nonzero()[:, 0]
        prefix = int(positions[inputs.example_images * (len(positions) // len(inputs.images))])
    return EncodedPrompt(
        ids,
        inputs.images,
        image_mask=_image_mask(inputs),
        prefix_tokens=prefix,
        prefix_images=inputs.example_images,
        layout=inputs.layout,
    )


def _image_mask(inputs: Inputs) -> torch.Tensor | None:
    image_mask = inputs.tensors.get("image_attention_mask")
    return None if image_mask is None else image_mask.bool()


class _memory_errors:
    """Turns torch's out-of-memory error into MemoryError inside the block."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: object, _: object) -> None:
        if kind is not None and issubclass(kind, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
            raise MemoryError(str(error))
