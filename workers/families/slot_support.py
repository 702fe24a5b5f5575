"""Which models can be served by continuous batching, as far as their settings and modules tell."""

from typing import Any

from workers.decoding.sampler import unsupported_rules
from workers.families.loaded import LoadedModel


def unsupported_reason(loaded: LoadedModel) -> str:
    """Say why a model cannot be batched in slots; empty if it may be tried."""
    settings, config = loaded.settings, loaded.model.config
    if settings.engine == "generate":
        return "the settings say so"
    if settings.device == "auto":
        return "it may lie on several devices"
    if loaded.card.quantize == "int8":
        return "8-bit matrix products wait for the device"
    if unsupported := unsupported_rules(loaded.model.generation_config):
        return f"its generation config asks for {', '.join(unsupported)}"
    if config._attn_implementation != "sdpa":
        return (
            f"IDEFIQ_ATTENTION is {config._attn_implementation}; continuous batching brings its own"
            " attention, on a GPU a flash attention kernel"
        )
    if other := _other_attention(loaded.model):
        return other
    return _other_layers(config.get_text_config())


def _other_layers(config: Any) -> str:
    """Say what the layers of a text model do that a packed prefill or a slot cannot."""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        return "its rotary embeddings (longrope) change with the longest sequence of a batch"
    layer_types = {*(getattr(config, "layer_types", None) or ())}
    if others := layer_types - {"full_attention", "sliding_attention"}:
        named = ", ".join(sorted(others))
        return f"its text model has layers ({named}) that keep a state of another form"
    return ""


def _other_attention(model: Any) -> str:
    """Name a part of a model whose attention transformers does not leave to sdpa."""
    for part in model.modules():
        own = getattr(getattr(part, "config", None), "_attn_implementation", None) or "sdpa"
        if own != "sdpa":
            return f"{type(part).__name__} has attention ({own}) that sdpa cannot compute"
    return ""
