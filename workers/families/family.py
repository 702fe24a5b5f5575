"""A family of transformers: a loaded model, its architecture's adapter, and what runs items on it.

prepare      request ─▶ Prepared                                         preparation.py
slot_engine  continuous batching                                         batching.py
generate     items that continuous batching does not accept, in batches  generator.py
             labels to rank: scores                                      ranking.py

`load` builds all of it, checks it last, and raises if the model fails.
"""

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from db.vocabulary.errors import EngineError, RequestError
from db.vocabulary.model_info import ModelInfo, Serving
from workers.decoding import attention, generation
from workers.decoding.gpu_memory import measure_gpu_memory
from workers.decoding.grammar import Grammars
from workers.families import (
    batching,
    checkpoints,
    identity,
    loading,
    processors,
    selfcheck,
    slot_support,
)
from workers.families.architecture import Architecture
from workers.families.base import Answer, Prepared
from workers.families.batching import ContinuousBatcher
from workers.families.control_tokens import ControlTokens
from workers.families.generator import Generator
from workers.families.loaded import LoadedModel
from workers.families.pixels import PixelNormalizer
from workers.families.preparation import Preparation
from workers.families.ranking import Ranker
from workers.settings import EngineSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TransformersFamily:
    """A model of transformers that is ready to answer items; see Family."""

    card: ModelInfo
    loaded: LoadedModel
    architecture: Architecture
    preparation: Preparation
    generator: Generator
    ranker: Ranker
    slot_engine: ContinuousBatcher | None

    @property
    def target_size(self) -> Callable[[int, int], tuple[int, int]] | None:
        """See Family.target_size."""
        return self.architecture.image_size if self.loaded.settings.decoding == "fast" else None

    def prepare(self, request: dict[str, Any], images: Sequence[Image.Image]) -> Prepared:
        """See Family.prepare."""
        return self.preparation.prepare(request, images)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def generate(self, batch: Sequence[Prepared]) -> list[Answer]:
        """See Family.generate."""
        answers: dict[int, Answer] = {}
        groups: dict[Hashable, list[int]] = {}
        for index, item in enumerate(batch):
            alone = self.loaded.is_batch_invariant
            key = index if alone else self.architecture.batch_key(item.inputs)
            groups.setdefault(key, []).append(index)
        try:
            for indexes in groups.values():
                some = [batch[index] for index in indexes]
                answers.update(zip(indexes, self._answer(some), strict=True))
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise MemoryError(str(error)) from error
        except RuntimeError as error:
            raise EngineError(f"generation failed: {type(error).__name__}") from error
        return [answers[index] for index in range(len(batch))]

    def _answer(self, batch: Sequence[Prepared]) -> list[Answer]:
        if batch[0].inputs.suffixes:
            return [self.ranker.answer(item) for item in batch]
        return self.generator.answer(batch)


def load(architecture_class: type[Architecture], settings: EngineSettings) -> TransformersFamily:
    """Load a checkpoint, check it, and choose how it is served.

    Raises:
        RequestError: It cannot be loaded, or fails the check of `selfcheck`.
    """
    if settings.torch_threads:
        torch.set_num_threads(settings.torch_threads)
    where = checkpoints.fetch(settings)
    loaded = _load(architecture_class, where, settings)
    architecture = architecture_class(loaded)
    preparation = Preparation(loaded, architecture)
    generator, ranker = Generator(loaded, architecture), Ranker(loaded, architecture)
    selfcheck.check_requests(loaded, architecture)
    items = selfcheck.items(preparation, architecture, loaded.card.limits.max_images)
    checks = selfcheck.run(loaded, architecture, generator, items)
    ranker = replace(ranker, is_cached=selfcheck.ranks_from_cache(preparation, ranker))
    batcher = _batcher(loaded, architecture, generator, items)
    serving = (
        Serving(path="generate", why=batcher)
        if isinstance(batcher, str)
        else Serving(path="slots", slots=batcher.count, slot_tokens=batcher.length)
    )
    log.info("model %s is served by %s", settings.model, serving)
    measure_gpu_memory(loaded.model)
    template = loaded.processor.chat_template
    variant = identity.variant(settings, where, template, loaded.card)
    card = loaded.card.model_copy(
        update={
            "checks": checks,
            "serving": serving,
            "variant": variant,
            "structured": loaded.grammars is not None,
        }
    )
    if settings.reuse_answers:
        card = card.model_copy(update={"fingerprint": identity.fingerprint(settings, card)})
    return TransformersFamily(
        card,
        loaded,
        architecture,
        preparation,
        generator,
        ranker,
        None if isinstance(batcher, str) else batcher,
    )


def _load(architecture: type[Architecture], where: Path, settings: EngineSettings) -> LoadedModel:
    processor = processors.load_processor(architecture.processor_class, where, settings)
    style = architecture.style(processor, settings)
    if architecture.needs_template and style == "plain":
        raise RequestError(
            f"the processor of model {settings.model!r} has no chat template;"
            " name a file that holds one with IDEFIQ_CHAT_TEMPLATE"
            if not processor.chat_template
            else f"model {settings.model!r} only takes turns: unset IDEFIQ_PROMPT_STYLE"
        )
    image_token = str(getattr(processor, "image_token", "<image>"))
    model = loading.load_model(where, settings)
    tokenizer = processor.tokenizer
    controls = ControlTokens.of(
        tokenizer,
        str(processor.chat_template or ""),
        image_token,
        known=generation.known_tokens(model),
    )
    end_tokens = generation.EndTokens.of(model, tokenizer, controls.of_images)
    card = identity.card(settings, where, model, architecture=architecture, style=style)
    model.generation_config.stop_strings = None  # they are the default of an option now
    return LoadedModel(
        settings=settings,
        card=card,
        model=model,
        processor=processor,
        device=loading.input_device(model, settings),
        pixels=PixelNormalizer(processor.image_processor) if architecture.sends_uint8 else None,
        image_token=image_token,
        image_token_id=int(tokenizer.convert_tokens_to_ids(image_token)),
        controls=controls,
        end_tokens=end_tokens,
        padding=generation.padding(tokenizer, end_tokens),
        context=identity.context_of(model),
        grammars=Grammars.for_tokenizer(tokenizer, end_tokens.ids),
    )


def _batcher(
    loaded: LoadedModel,
    architecture: Architecture,
    generator: Generator,
    items: Sequence[Prepared],
) -> ContinuousBatcher | str:
    """Build the continuous batcher of a model, or say why it cannot have one.

    Raises:
        RequestError: The device has no memory for the slots.
    """
    if why := slot_support.unsupported_reason(loaded):
        return why
    text_decoder = architecture.text_decoder()
    if isinstance(text_decoder, str):
        return text_decoder
    attention.install(loaded.model)
    config = batching.slot_config(loaded, text_decoder)
    try:
        batcher = batching.build(loaded, architecture, text_decoder, config)
        why = str(selfcheck.compare_with_generate(loaded, generator, batcher, items))
    except RuntimeError as error:  # torch.OutOfMemoryError is one on a GPU, but not on a CPU
        raise RequestError(
            f"{config.slots} slots of {config.length} tokens do not fit beside the model:"
            f" {error}; set IDEFIQ_SLOTS or IDEFIQ_SLOT_TOKENS lower"
        ) from error
    if why:
        loaded.model.set_attn_implementation("sdpa")
        return why
    return batcher
