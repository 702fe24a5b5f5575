"""One file per model architecture; `FAMILIES` says which file loads which `model_type`.

A new architecture is a file, a line here and a checkpoint in tests/workers/families/tiny.py; until
it has one, the model-agnostic `chat` serves it. Importing this module imports no torch: a family is
loaded by name, so that echo runs where torch is not installed.
"""

import importlib
from typing import cast

from PIL import Image

from db.vocabulary.errors import ItemError, RequestError
from workers.families.base import Family, LoadFamily
from workers.settings import EngineSettings

#: `model_type` of a checkpoint's config.json → module with a `load(settings)`.
FAMILIES = {
    "echo": "workers.families.echo",
    "idefics": "workers.families.idefics",
    "idefics2": "workers.families.idefics2",
    "idefics3": "workers.families.idefics3",
    "smolvlm": "workers.families.idefics3",
}
_TWO_PARTS = "it reads with one part and speaks with another (encoder and decoder)"
#: Why models that transformers counts among those that take images and texts are not served.
REFUSED = {
    "blip": _TWO_PARTS,
    "florence2": _TWO_PARTS,
    "git": "it describes images and takes no text",
    "kosmos-2": "its answers hold boxes and marks that only its own processor can read",
    "kosmos-2.5": "its answers hold boxes and marks that only its own processor can read",
    "pix2struct": _TWO_PARTS,
    "udop": _TWO_PARTS,
    "vision-encoder-decoder": _TWO_PARTS,
}
#: For every other model that takes images and texts and says texts.
OTHER_MODELS = "workers.families.chat"


def load(settings: EngineSettings) -> Family:
    """Load the model of the settings with its family.

    Raises:
        RequestError: No family here can load it.
    """
    module = importlib.import_module(_module_of(settings))
    try:
        return cast(LoadFamily, module.load)(settings)
    except RequestError:
        raise
    except ItemError as error:
        raise RequestError(
            f"model {settings.model!r} does not take the items of its own check: {error}"
        ) from error
    except Exception as error:  # the libraries have errors of all kinds for what is lacking
        # torch has an error of its own for a GPU's memory, and torch is not imported here.
        is_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        hint = "; see IDEFIQ_DTYPE and IDEFIQ_QUANTIZE for smaller weights" if is_memory else ""
        raise RequestError(
            f"model {settings.model!r} cannot be loaded: {type(error).__name__}: {error}{hint}"
        ) from error


def _module_of(settings: EngineSettings) -> str:
    if settings.model == "echo":
        return FAMILIES["echo"]
    from workers.families.checkpoints import model_type

    kind = model_type(settings)
    if kind not in FAMILIES and not _is_known(kind):
        raise RequestError(
            f"model {settings.model!r} is a {kind!r}, which the installed transformers does not"
            " know, and code that comes with a checkpoint is never run; use a checkpoint that was"
            " converted for transformers (its name often ends with -hf), or a later idefiq"
        )
    if why := REFUSED.get(kind):
        raise RequestError(f"model {settings.model!r} is a {kind!r}, which is not served: {why}")
    if kind not in FAMILIES and not _takes_images(kind):
        raise RequestError(
            f"model {settings.model!r} is a {kind!r}, which does not turn images and texts into"
            f" texts; served are {', '.join(sorted(FAMILIES))} and every other model of that kind"
        )
    return FAMILIES.get(kind, OTHER_MODELS)


def _is_known(kind: str) -> bool:
    """True if the installed transformers has an architecture."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return kind in CONFIG_MAPPING_NAMES


def _takes_images(kind: str) -> bool:
    """True if transformers knows an architecture as image-text-to-text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    return kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def warm_up(family: Family) -> None:
    """Answer one drawn image, so that no user waits for lazy initialisation."""
    request = {"kind": "caption", "options": {"max_new_tokens": 1}}
    family.generate([family.prepare(request, [Image.new("RGB", (96, 96), "white")])])
