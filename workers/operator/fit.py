"""Whether a checkpoint fits the disk, and its weights the device of the settings."""

import logging
from pathlib import Path

import psutil
from transformers import AutoConfig

from db.vocabulary.errors import RequestError
from workers.families import loading, processors, quantization, sizes
from workers.operator import gib
from workers.operator.devices import gpus
from workers.settings import EngineSettings

log = logging.getLogger(__name__)

#: Beside its weights a model needs memory for prompts, images and the KV cache.
SHARE_FOR_WEIGHTS = 0.8


def weights_bytes(folder: Path, settings: EngineSettings) -> float | None:
    """Bytes of the weights on the device, from config.json alone.

    None for an architecture or a quantization that is not known here.
    """
    try:
        config = AutoConfig.from_pretrained(folder, **processors.LOCAL)
        counted = sizes.parts(config)
    except Exception:  # whatever the library raises; loading reports it
        log.info("the weights of %s cannot be counted", folder, exc_info=True)
        return None
    quantize = quantization.quantized_as(folder) or settings.quantize
    if quantize not in ("none", "nf4", "nf4-all", "fp4", "int8"):
        return None
    if quantize == "int8":
        return sum(part.linear + 2 * part.other for part in counted)
    total = sum(part.size_bytes(quantize) for part in counted)
    return total * 2 if (settings.dtype, quantize) == ("float32", "none") else total


def memory_bytes(settings: EngineSettings) -> tuple[str, int]:
    """Name and total memory of the device of the settings.

    Raises:
        RequestError: They name a GPU that is not here.
    """
    device = loading.one_device(settings)
    here = gpus()
    if device is None:
        return "all devices", sum(g.total_bytes for g in here) + psutil.virtual_memory().total
    if device.type == "cuda":
        gpu = here[device.index]
        return f"cuda:{gpu.index} ({gpu.name})", gpu.total_bytes
    return "this machine", psutil.virtual_memory().total


def advice(needed: float, settings: EngineSettings) -> str:
    """Return why weights of this size do not fit the device, and what would; "" if they do."""
    try:
        where, there = memory_bytes(settings)
    except RequestError as error:
        return str(error)
    if needed <= SHARE_FOR_WEIGHTS * there:
        return ""
    summary = f"its weights take {gib(needed)} in {settings.dtype}, and {where} has {gib(there)}"
    if settings.quantize == "none":
        smaller = [] if settings.dtype != "float32" else ["IDEFIQ_DTYPE=bfloat16 halves them"]
        return "; ".join([summary, *smaller, "IDEFIQ_QUANTIZE=nf4 takes about a third of 16 bits"])
    return f"{summary}; use a larger GPU, several (IDEFIQ_DEVICE=auto), or a smaller model"
