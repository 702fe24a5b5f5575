"""Model info of a loaded model, and the fingerprint of everything that its answers depend on."""

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from db.vocabulary.kinds import KINDS, Style, kinds_of
from db.vocabulary.model_info import ModelInfo, ModelLimits
from db.vocabulary.requests import MAX_EXAMPLES, MAX_IMAGES, MAX_NEW_TOKENS
from workers.decoding import generation
from workers.families import alttext, checkpoints, quantization
from workers.families.architecture import Architecture
from workers.settings import EngineSettings

#: Most tokens an item may ask for where the operator has said nothing: longer answers hold a
#: device for minutes, which is an operator's decision.
UNASKED_LIMIT = 4096


def card(
    settings: EngineSettings,
    where: Path,
    model: Any,
    *,
    architecture: type[Architecture],
    style: Style,
) -> ModelInfo:
    """Build the model info of a checkpoint before its self-check.

    Args:
        where: The checkpoint's folder.
        model: Loaded from it.
    """
    limit = new_tokens_limit(settings, context_of(model))
    return ModelInfo(
        name=settings.model,
        family=architecture.name,
        kinds=kinds_of(style),
        limits=ModelLimits(
            **{
                "max_images": MAX_IMAGES,
                "max_examples": MAX_EXAMPLES,
                "max_new_tokens": limit,
                **architecture.limits(model.config.model_type),
            }
        ),
        license=checkpoints.license_name(settings),
        style=style,
        languages=list(architecture.languages),
        follows_instructions=settings.model not in checkpoints.OWN_WORDINGS,
        defaults=generation.defaults(model.generation_config, min(settings.max_new_tokens, limit)),
        note=checkpoints.note(settings),
        revision=checkpoints.revision(where),
        dtype=settings.dtype,
        quantize=quantization.quantized_as(where) or settings.quantize,
        adapter=settings.adapter,
        device=settings.device,
    )


def context_of(model: Any) -> int:
    """Context length: tokens of a prompt and its answer; 0 if the checkpoint does not say."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 0)


def new_tokens_limit(settings: EngineSettings, context: int) -> int:
    """Most tokens that an item may request: the operator's limit, or half of the context.

    The other half is for the prompt, in which an image takes from 64 to some thousand tokens.

    Args:
        context: Tokens of a prompt and its answer together; 0 if that is not known.
    """
    if settings.new_tokens_limit:
        return max(1, min(settings.new_tokens_limit, (context or MAX_NEW_TOKENS + 1) - 1))
    return max(1, min(context // 2, UNASKED_LIMIT)) if context else UNASKED_LIMIT


def fingerprint(settings: EngineSettings, card: ModelInfo) -> str:
    """Digest of everything that an answer depends on besides its request.

    Args:
        card: With its variant.
    """
    parts = [
        card.variant,
        settings.model_dump_json(include={"device", "slots", "slot_tokens"}),
        repr([(kind, entry.templates) for kind, entry in KINDS.items()]),
        alttext.TEMPLATE,
        *(version(name) for name in ("idefiq", "torch", "transformers", "pillow", "llguidance")),
    ]
    return _digest(parts)


def variant(
    settings: EngineSettings, where: Path, chat_template: str | None, card: ModelInfo
) -> str:
    """Digest of the checkpoint, the adapter, the chat template and the options of an engine.

    Equal on every device: the engines of one host share the work of a job.
    """
    own = {"engine", "decoding", "image_splitting", "attention", "quantize_double"}
    own |= {"invariant"}
    included = {
        "name",
        "style",
        "dtype",
        "quantize",
        "defaults",
        "languages",
        "follows_instructions",
    }
    parts = [
        checkpoints.fingerprint(where),
        checkpoints.fingerprint(Path(settings.adapter)) if settings.adapter else "",
        chat_template,
        card.model_dump_json(include=included),
        settings.model_dump_json(include=own),
    ]
    return _digest(parts)[:12]


def _digest(parts: Sequence[str | None]) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
