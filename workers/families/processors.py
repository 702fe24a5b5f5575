"""Loads processors of checkpoints, also where a part is missing that images do not need.

* Parts for videos: see videoless.py.
* torchvision: Pillow makes the pixels of every model here, but a few processors import torchvision
  all the same. That of Pixtral does so for one function, which its Pillow part has too.
* A chat template: a few models that take no turns were published without one, and get one here.
"""

import copy
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from transformers.utils import is_torchvision_available

from db.vocabulary.errors import RequestError
from workers.families.videoless import without_videos
from workers.settings import EngineSettings

#: Everything is in a folder by now, and no code of a checkpoint is ever run.
LOCAL = {"local_files_only": True, "trust_remote_code": False}
#: Attributes of image processors that cut large images into pieces.
PIECES = ("do_image_splitting", "crop_to_patches", "do_pan_and_scan")
_TEXTS = "{% for message in messages %}{% for part in message['content'] %}"
_ENDS = "{% endfor %}{% endfor %}"
#: By `model_type`, prompts as the documentation of the model writes them.
TEMPLATES = {
    "paligemma": (
        _TEXTS
        + "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
        + _ENDS
    ),
    # Its processor writes the image tokens before the text.
    "blip-2": (
        "{% for message in messages %}{{ 'Question: ' if message['role'] == 'user' else ' ' }}"
        "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}"
        "{% endfor %}{{ ' Answer:' if message['role'] == 'user' else ' ' }}{% endfor %}"
    ),
    "instructblip": _TEXTS + "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}" + _ENDS,
}


def load_processor(processor_class: Any, where: Path, settings: EngineSettings) -> Any:
    """Load a checkpoint's processor; Pillow makes the pixels, whatever else is installed.

    Raises:
        RequestError: It needs a package that is not installed.
    """
    if _named(where, "processor_class") == "PixtralProcessor" and not is_torchvision_available():
        processor_class = pixtral_class()
    try:
        with without_videos():
            processor = processor_class.from_pretrained(where, **LOCAL, backend="pil")
    except (ImportError, ValueError) as error:
        if "torchvision" not in str(error).lower():
            raise
        raise RequestError(
            f"the processor of model {settings.model!r} needs the package torchvision, which is"
            " not installed; install the version that belongs to your torch"
        ) from error
    if settings.chat_template:
        processor.chat_template = Path(settings.chat_template).read_text(encoding="utf-8")
    elif not processor.chat_template:
        processor.chat_template = TEMPLATES.get(str(_named(where, "model_type")))
    if settings.image_splitting:
        # As an argument of each call it would split the pixels and not the tokens.
        processor.image_processor.do_image_splitting = settings.image_splitting == "on"
    return processor


def seen_at(processor: Any, detail: str) -> Any:
    """Return a processor that sees images at a detail; the same one where that makes no difference.

    Args:
        detail: "auto", "low" or "high", see `Options.image_detail`.
    """
    pieces = [name for name in PIECES if hasattr(processor.image_processor, name)]
    if detail == "auto" or not pieces:
        return processor
    # Idefics3 splits the pixels and not the tokens if this is an argument of the call alone; the
    # processors of InternVL and Gemma 3 have arguments that come before what is set.
    other = copy.copy(processor)
    other.image_processor = copy.copy(processor.image_processor)
    other.images_kwargs = dict(getattr(processor, "images_kwargs", {}))
    for name in pieces:
        setattr(other.image_processor, name, detail == "high")
        if name in other.images_kwargs:
            other.images_kwargs[name] = detail == "high"
    return other


def _named(where: Path, name: str) -> Any:
    """What the files of a checkpoint name, such as the class of its processor."""
    for file in ("config.json", "processor_config.json", "preprocessor_config.json"):
        path = where / file
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            if name in found:
                return found[name]
    return None


def pixtral_class() -> Any:
    """Return the processor class of Pixtral, which wants torchvision for a function of Pillow's."""
    package = "transformers.models.pixtral."
    pillow = importlib.import_module(f"{package}image_processing_pil_pixtral")
    sys.modules.setdefault(f"{package}image_processing_pixtral", pillow)
    return importlib.import_module(f"{package}processing_pixtral").PixtralProcessor
