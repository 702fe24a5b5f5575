"""What tests of the API's clients share: a model's card, and how an API is started."""

from collections.abc import Callable

import httpx2

from db.cards import Limits, ModelCard

CARD = ModelCard(
    name="echo",
    family="echo",
    kinds=["caption", "vqa", "chat"],
    limits=Limits(max_images=2, max_new_tokens=64),
    licence="Apache-2.0",
    note="Not a model.",
)

Serve = Callable[..., httpx2.Client]
