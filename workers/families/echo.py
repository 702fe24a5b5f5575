"""Echo: no model at all, for dry runs, queue tests and benchmarks; it says so in every answer.

The answer is a function of the pixels and the request, so a wrong image, a changed byte or a
swapped neighbour shows. It needs no torch and no checkpoint.
"""

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from PIL import Image, ImageStat

from db.vocabulary.kinds import KINDS, kinds_of
from db.vocabulary.model_info import ModelInfo, ModelLimits
from db.vocabulary.requests import MAX_EXAMPLES, MAX_IMAGES, MAX_NEW_TOKENS
from workers.families.base import Answer, Prepared, Score
from workers.families.prompts import build
from workers.settings import EngineSettings

#: In so many steps an answer is said to those who read along.
ECHO_STEPS = 4


class Echo:
    """The echo family; see the module."""

    def __init__(self, card: ModelInfo, *, seconds_per_item: float) -> None:
        self.card, self.slot_engine, self.target_size = card, None, None
        self._seconds_per_item = seconds_per_item

    def prepare(self, request: dict[str, Any], images: Sequence[Image.Image]) -> Prepared:
        """Digest the pixels."""
        prompt = build(request, "chat", len(images))
        described = "; ".join(
            _describe(images[part]) if isinstance(part, int) else part
            for turn in prompt.turns
            for part in turn.parts
        )
        described = f"echo, not a model: {described}"
        return Prepared(request, tokens=len(described.split()), inputs=(described, prompt.template))

    def generate(self, batch: Sequence[Prepared]) -> list[Answer]:
        """Answer with the digest, cut to `max_new_tokens` words."""
        answers = [self._answer(item) for item in batch]
        described = [
            (item.on_text, answer.text.split())
            for item, answer in zip(batch, answers, strict=True)
            if item.on_text
        ]
        for step in range(ECHO_STEPS):
            time.sleep(self._seconds_per_item * len(batch) / ECHO_STEPS)
            for on_text, words in described:
                if known := words[: len(words) * (step + 1) // ECHO_STEPS]:
                    on_text(" ".join(known))
        return answers

    def _answer(self, item: Prepared) -> Answer:
        described, template = item.inputs
        options = item.request.get("options", {})
        most = options.get("max_new_tokens", self.card.defaults["max_new_tokens"])
        words = described.split()
        text = " ".join(words[:most])
        is_chosen = "labels" in item.request
        read = KINDS[item.request["kind"]].read
        answer = Answer(
            text=text,
            finish_reason="stop" if len(words) <= most else "length",
            prompt_tokens=len(words),
            completion_tokens=min(len(words), most),
            template=template,
            prompt=described if options.get("echo") else None,
            kind_fields={} if is_chosen else read(text, item.request),
        )
        return _choose(answer, item.request) if is_chosen else answer


def _choose(answer: Answer, request: dict[str, Any]) -> Answer:
    """Choose a label by the pixels; ranked, all have the same score."""
    labels = request["labels"]
    chosen = labels[hashlib.sha256(answer.text.encode()).digest()[0] % len(labels)]
    if request.get("method") != "rank":
        return replace(answer, kind_fields={"label": chosen})
    logprob = -math.log(len(labels))
    scores = tuple(Score(label, logprob, logprob) for label in labels)
    return replace(answer, finish_reason="rank", kind_fields={"label": chosen}, scores=scores)


def _describe(image: Image.Image) -> str:
    red, green, blue = (round(mean) for mean in ImageStat.Stat(image).mean)
    digest = hashlib.sha256(image.tobytes()).hexdigest()[:12]
    return f"{image.width}x{image.height} mean #{red:02x}{green:02x}{blue:02x} pixels {digest}"


def load(settings: EngineSettings) -> Echo:
    """Build echo; nothing is loaded."""
    card = ModelInfo(
        name=settings.model,
        family="echo",
        kinds=kinds_of("chat"),
        limits=ModelLimits(
            max_images=MAX_IMAGES,
            max_examples=MAX_EXAMPLES,
            max_new_tokens=settings.new_tokens_limit or MAX_NEW_TOKENS,
        ),
        defaults={"max_new_tokens": settings.max_new_tokens},
        license="Apache-2.0",
        note="Not a model: answers are made from the pixels, for dry runs and tests.",
    )
    options = card.model_dump_json(include={"defaults", "limits"})
    variant = hashlib.sha256(options.encode()).hexdigest()[:12]
    return Echo(
        card.model_copy(update={"variant": variant}),
        seconds_per_item=settings.echo_batch_seconds / settings.batch_items,
    )
