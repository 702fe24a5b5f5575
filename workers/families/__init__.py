"""One file per model architecture; `FAMILIES` says which file loads which `model_type`.

A new architecture is a file, a line here and a line in the contract test. Importing this module
imports no torch: a family is loaded by name, so that echo runs where torch is not installed.
"""

import importlib
from typing import cast

from PIL import Image

from db.errors import RequestError
from workers.families.base import Family, LoadFamily
from workers.settings import EngineSettings

#: `model_type` of a checkpoint's config.json → module with a `load(settings)`.
FAMILIES = {
    "echo": "workers.families.echo",
    "idefics2": "workers.families.idefics2",
}


def load(settings: EngineSettings) -> Family:
    """Load the model of the settings by its family.

    Raises:
        RequestError: No family here can load it.
    """
    family = _family_of(settings)
    if family not in FAMILIES:
        raise RequestError(
            f"model {settings.model!r} is of family {family!r}; this service can load"
            f" {', '.join(sorted(FAMILIES))}"
        )
    module = importlib.import_module(FAMILIES[family])
    return cast(LoadFamily, module.load)(settings)


def _family_of(settings: EngineSettings) -> str:
    if settings.model == "echo":
        return "echo"
    from workers.families.checkpoints import model_type

    return model_type(settings)


def warm_up(family: Family) -> None:
    """Answer one drawn item, so that the first user does not wait for lazy set-up."""
    request = {"kind": "caption", "options": {"max_new_tokens": 1}}
    family.generate([family.prepare(request, [Image.new("RGB", (96, 96), "white")])])
