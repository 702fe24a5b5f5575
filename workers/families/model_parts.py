"""The parts of a model, from its configuration alone: what reads text, and what sees."""

from typing import Any

import torch
from transformers import AutoModelForImageTextToText

#: Parts of a model that read text; all others see, or lead from pictures to words.
TEXT_PARTS = frozenset(
    {"text_model", "language_model", "embed_tokens", "layers", "norm", "gated_cross_attn_layers"}
)


def without_weights(config: Any) -> Any:
    """Build a model on the meta device: its modules and shapes, without memory for weights."""
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config, trust_remote_code=False)


def parts(model: Any) -> list[tuple[str, str, torch.nn.Module]]:
    """Return the parts of a model except the LM head: full name, name, module."""
    inner, prefix = (model.model, "model.") if hasattr(model, "model") else (model, "")
    return [
        (f"{prefix}{name}", name, module)
        for name, module in inner.named_children()
        if name != "lm_head"
    ]


def is_vision(part: str) -> bool:
    """True for a part that encodes images, or connects them to the text model."""
    return part not in TEXT_PARTS
