"""What tests of the API's clients share: a model's card, and how an API is started."""

from collections.abc import Callable

import httpx2

from db.vocabulary.model_info import ModelInfo, ModelLimits

CARD = ModelInfo(
    name="echo",
    family="echo",
    kinds=["caption", "vqa", "chat"],
    limits=ModelLimits(max_images=2, max_new_tokens=64),
    license="Apache-2.0",
    note="Not a model.",
)

Serve = Callable[..., httpx2.Client]
