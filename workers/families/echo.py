"""Echo: no model at all, for dry runs, queue tests and benchmarks; it says so in every answer.

The answer is a function of the pixels and the request, so a wrong image, a changed byte or a
swapped neighbour shows. It needs no torch and no checkpoint.
"""

import hashlib
import time
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageStat

from db.requests import Limits, ModelCard
from workers.families.base import Answer, Prepared
from workers.families.prompts import instruction
from workers.settings import EngineSettings


class Echo:
    """See the module."""

    def __init__(self, card: ModelCard, *, seconds_per_item: float) -> None:
        self.card = card
        self._seconds_per_item = seconds_per_item

    def prepare(self, request: dict[str, Any], images: Sequence[Image.Image]) -> Prepared:
        """Digest the pixels."""
        text, template = instruction(request)
        seen = "; ".join(_describe(image) for image in images)
        said = f"echo, not a model: {seen} | {text}"
        return Prepared(request, tokens=len(said.split()), inputs=(said, template))

    def generate(self, batch: Sequence[Prepared]) -> list[Answer]:
        """Say what was seen, cut to `max_new_tokens` words."""
        time.sleep(self._seconds_per_item * len(batch))
        return [self._answer(item) for item in batch]

    def _answer(self, item: Prepared) -> Answer:
        said, template = item.inputs
        most = item.request.get("options", {}).get(
            "max_new_tokens", self.card.limits.max_new_tokens
        )
        words = said.split()
        return Answer(
            text=" ".join(words[:most]),
            finish_reason="stop" if len(words) <= most else "length",
            prompt_tokens=len(words),
            completion_tokens=min(len(words), most),
            template=template,
        )


def _describe(image: Image.Image) -> str:
    red, green, blue = (round(mean) for mean in ImageStat.Stat(image).mean)
    digest = hashlib.sha256(image.tobytes()).hexdigest()[:12]
    return f"{image.width}x{image.height} mean #{red:02x}{green:02x}{blue:02x} pixels {digest}"


def load(settings: EngineSettings) -> Echo:
    """Nothing to load."""
    return Echo(
        ModelCard(
            name=settings.model,
            family="echo",
            kinds=["caption", "vqa"],
            limits=Limits(max_images=8, max_new_tokens=settings.max_new_tokens),
            licence="Apache-2.0",
            note="Not a model: answers are made from the pixels, for dry runs and tests.",
        ),
        seconds_per_item=settings.echo_batch_seconds / settings.batch_items,
    )
