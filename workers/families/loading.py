"""Loading of a model from a folder onto its devices, by the settings."""

import logging
import os
import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from db.vocabulary.errors import RequestError
from workers.families import checkpoints, quantization
from workers.families.model_parts import without_weights
from workers.families.processors import LOCAL
from workers.settings import EngineSettings

#: Parts of a kind that no model has: transformers would build them one by one, for hours.
TOO_MANY_PARTS = 10_000
_COUNTED = re.compile(r"layers|depth|blocks|experts")

log = logging.getLogger(__name__)


def load_model(where: Path, settings: EngineSettings) -> Any:
    """Load a model onto its devices in evaluation mode.

    Raises:
        RequestError: It cannot be loaded as the settings say; tells why.
    """
    if (where / "adapter_config.json").exists():
        raise RequestError(
            f"model {settings.model!r}: {str(where)!r} holds an adapter, which would be applied"
            " unseen; name the base model's folder, and the adapter's with IDEFIQ_ADAPTER"
        )
    config = AutoConfig.from_pretrained(where, **LOCAL)
    _check_counts(config.to_dict(), settings)
    own = quantization.quantized_as(where)
    quantization.check(own, settings)
    if not own:  # quantized: several weights share a number in the files
        _check_size(config, where, settings)
    device = one_device(settings)
    if device is not None and device.type == "cuda":
        torch.cuda.set_device(device)  # streams, events and graphs go to the current one
    try:
        model, found = AutoModelForImageTextToText.from_pretrained(
            where, **LOCAL, **_options(where, settings), output_loading_info=True
        )
    except (ImportError, RuntimeError, ValueError) as error:
        if not own or isinstance(error, torch.OutOfMemoryError):
            raise
        raise RequestError(
            f"model {settings.model!r} is quantized ({own}), which cannot be used here: {error}"
        ) from error
    _check_loaded(model, sorted(found["missing_keys"]), where, own, settings.model)
    if settings.adapter:
        _add_adapter(model, Path(settings.adapter))
    return model.eval()


def _check_loaded(model: Any, missing: list[str], where: Path, own: str, name: str) -> None:
    if own and not quantization.is_quantized(model):
        raise RequestError(
            f"config.json of model {name!r} says that its weights are quantized ({own}), and they"
            " are not: take out quantization_config there, and set IDEFIQ_QUANTIZE"
        )
    if missing:
        # transformers fills them with noise, and only warns.
        raise RequestError(
            f"model {name!r}: the safetensors files in {str(where)!r} lack"
            f" {len(missing)} of its weights, such as {missing[0]!r}: config.json belongs to"
            " another model, or a file is missing"
        )
    if model.config.is_encoder_decoder:
        raise RequestError(
            f"model {name!r} reads with one part and speaks with another"
            " (encoder and decoder); only models that go on with their prompt are served"
        )


def one_device(settings: EngineSettings) -> torch.device | None:
    """Return the device that the settings name, with its number; None for `auto`.

    Raises:
        RequestError: It is not here.
    """
    if settings.device == "auto":
        return None
    device = torch.device(settings.device)
    if device.type != "cuda":
        return device
    index = device.index or 0
    if not torch.cuda.is_available():
        raise RequestError(
            f"model {settings.model!r}: no device {settings.device!r} can be used here (no GPU, no"
            " driver, or a torch without CUDA); set IDEFIQ_DEVICE"
        )
    if index >= (count := torch.cuda.device_count()):
        raise RequestError(
            f"model {settings.model!r}: there is no device {settings.device!r}, only"
            f" cuda:0 to cuda:{count - 1}; set IDEFIQ_DEVICE"
        )
    return torch.device("cuda", index)


def _options(where: Path, settings: EngineSettings) -> dict[str, Any]:
    options: dict[str, Any] = {"dtype": getattr(torch, settings.dtype), "use_safetensors": True}
    if settings.attention:
        options["attn_implementation"] = settings.attention
    if settings.quantize != "none":
        options["quantization_config"] = quantization.configured(where, settings)
    device = one_device(settings)
    if device is None:
        options["device_map"] = "auto"
        options["max_memory"] = _max_memory(settings)
        options["offload_folder"] = settings.offload_folder or None
    else:
        # Each weight goes to the device as it is read: the whole never lies in host memory.
        options["device_map"] = {"": device}
    return options


def _check_counts(config: dict[str, Any], settings: EngineSettings) -> None:
    for name, value in config.items():
        if isinstance(value, dict):
            _check_counts(value, settings)
        elif isinstance(value, int) and value > TOO_MANY_PARTS and _COUNTED.search(name):
            raise RequestError(
                f"config.json of model {settings.model!r} describes a model that cannot be built:"
                f" {name} is {value}"
            )


def _check_size(config: Any, where: Path, settings: EngineSettings) -> None:
    """Reject a configuration that describes a far larger model than the files hold.

    transformers would allocate memory for all weights, and fill missing ones with noise.
    """
    try:
        described = sum(weight.numel() for weight in without_weights(config).parameters())
    except Exception as error:  # a model that cannot be built without weights is loaded unchecked
        log.info("the weights of %s are not counted before loading: %s", settings.model, error)
        return
    stored = checkpoints.stored_weights(where)
    if stored < described / 2:
        raise RequestError(
            f"model {settings.model!r}: config.json in {str(where)!r} describes {described:,}"
            f" weights, but the safetensors files there hold {stored:,}: they belong to different"
            " models, or a file is missing"
        )


def input_device(model: Any, settings: EngineSettings) -> torch.device:
    """Return the device for the inputs of a model that may be spread over several."""
    if (device := one_device(settings)) is not None:
        return device
    placed = getattr(model, "hf_device_map", None) or {}
    for device in placed.values():
        if device not in ("cpu", "disk"):
            return torch.device(device)
    return torch.device("cpu")


def _max_memory(settings: EngineSettings) -> dict[int | str, str] | None:
    found = settings.max_memory
    return {int(k) if k.isdigit() else k: size for k, size in found.items()} or None


def _add_adapter(model: Any, folder: Path) -> None:
    if not (folder / "adapter_config.json").is_file():
        raise RequestError(f"{str(folder)!r} is no LoRA adapter: it has no adapter_config.json")
    if not (folder / "adapter_model.safetensors").is_file():
        raise RequestError(
            f"the adapter {str(folder)!r} has no adapter_model.safetensors;"
            " pickled weights could run code and are not loaded"
        )
    found = model.load_adapter(os.fspath(folder), use_safetensors=True)
    strangers = sorted({*found.missing_keys, *found.unexpected_keys, *found.mismatched_keys})
    if strangers:
        raise RequestError(
            f"the adapter {str(folder)!r} is not one of this model: {len(strangers)} of its"
            f" weights have no place in it, or none in the adapter, such as {strangers[0]!r}"
        )
