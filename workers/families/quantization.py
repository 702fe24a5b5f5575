"""Quantization of weights: by the settings, or as a checkpoint brings it."""

from pathlib import Path

import torch
from transformers import AutoConfig, BitsAndBytesConfig
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from db.vocabulary.errors import RequestError
from workers.families.model_parts import is_vision, parts, without_weights
from workers.families.processors import LOCAL
from workers.settings import EngineSettings

#: What bitsandbytes makes, by the names of `IDEFIQ_QUANTIZE`.
BITSANDBYTES = frozenset({"nf4", "fp4", "int8"})


def quantized_as(where: Path) -> str:
    """Return how a checkpoint is quantized itself, such as "nf4" or "awq"; "" if it is not."""
    config = AutoConfig.from_pretrained(where, **LOCAL)
    own = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(decoder=True), "quantization_config", None
    )
    if not own:
        return ""
    if not isinstance(own, dict):
        return "unknown"
    if own.get("load_in_4bit"):
        return str(own.get("bnb_4bit_quant_type", "fp4"))
    return "int8" if own.get("load_in_8bit") else str(own.get("quant_method"))


def check(own: str, settings: EngineSettings) -> None:
    """Reject a checkpoint whose own quantization cannot be used with the settings.

    Args:
        own: Its quantization, as `quantized_as` names it.

    Raises:
        RequestError: It would be quantized twice, or not be recognised as quantized.
    """
    if own and settings.quantize != "none":
        raise RequestError(
            f"model {settings.model!r} is quantized already ({own}), and its weights cannot be"
            " quantized again: unset IDEFIQ_QUANTIZE"
        )
    if own and own not in BITSANDBYTES and own not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        # transformers would load its packed numbers as if they were weights.
        raise RequestError(
            f"model {settings.model!r} is quantized in a way that transformers does not know: {own}"
        )


def is_quantized(model: torch.nn.Module) -> bool:
    """False if layers for weights of four bits hold others."""
    return all(
        getattr(module.weight, "quant_state", None) is not None
        for module in model.modules()
        if type(module).__name__ == "Linear4bit"
    )


def configured(where: Path, settings: EngineSettings) -> BitsAndBytesConfig:
    """Build the quantization settings of the weights.

    The vision encoder, the connector and the LM head lose the most and keep their precision; with
    "nf4-all" only the LM head does. Names are anchored: "vision_model" alone would match nothing,
    silently, and the LM head would be quantized too.
    """
    vision = [] if settings.quantize == "nf4-all" else vision_parts(where)
    keep = [*vision, "lm_head"]
    if settings.quantize == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=keep)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="fp4" if settings.quantize == "fp4" else "nf4",
        bnb_4bit_use_double_quant=settings.quantize_double,
        bnb_4bit_compute_dtype=getattr(torch, settings.dtype),
        llm_int8_skip_modules=keep,
    )


def vision_parts(where: Path) -> list[str]:
    """Names of a checkpoint's modules that do not process text, from its configuration."""
    model = without_weights(AutoConfig.from_pretrained(where, **LOCAL))
    return [full for full, name, _ in parts(model) if is_vision(name)]
