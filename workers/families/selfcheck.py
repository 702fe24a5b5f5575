"""The self-check of a model, run when it is loaded.

Checkpoints have been served for weeks whose answers ignored the image, or changed with their
neighbours in a batch. So a model must show that another image changes the logits of the first
token, and that neighbours do not. A model that fails is not served.
"""

import logging
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from PIL import Image
from transformers import LogitsProcessor

from db.vocabulary.errors import RequestError
from db.vocabulary.model_info import SelfCheck
from workers.decoding import seeded_sampling
from workers.decoding.batch_engine import ActiveSequence
from workers.decoding.generation import LogprobRecorder
from workers.families.architecture import Architecture
from workers.families.base import Prepared
from workers.families.batching import ContinuousBatcher
from workers.families.generator import Generator
from workers.families.loaded import LoadedModel
from workers.families.preparation import Preparation
from workers.families.prompts import Turn
from workers.families.ranking import Ranker

#: A change of the logits below this share of their spread counts as none.
MIN_EFFECT = 1e-4
#: Neighbours may change the logits by this share of what another image changes: next to nothing
#: in full precision, the rounding in a smaller dtype or with quantized weights.
MAX_NOISE_EXACT, MAX_NOISE_ROUNDED = 0.01, 0.5
#: A label token's log probability may differ so much between the two ways to compute it.
RANK_NOISE_EXACT, RANK_NOISE_ROUNDED = 1e-3, 0.5
#: Where an answer in slots differs from `generate`, the two tokens' logits may differ so much.
SLOT_NOISE_ROUNDED = 0.5
#: In full precision, so much may differ in the log probability of a token.
SLOT_NOISE_EXACT = 1e-3
TOKENS = 6

log = logging.getLogger(__name__)


def check_requests(loaded: LoadedModel, architecture: Architecture) -> None:
    """Check that a prompt holds what a user writes, and that the checkpoint's own options work.

    Raises:
        RequestError: Every item would fail, or be answered without what was asked.
    """
    name, question = loaded.card.name, "What is written here?"
    if question not in architecture.render([Turn("user", (0, question))]):
        raise RequestError(f"the chat template of model {name!r} leaves out the text of messages")
    try:
        seeded_sampling.processors(loaded.card.defaults, [0])
    except (ValueError, TypeError) as error:
        raise RequestError(
            f"generation_config.json of model {name!r} has an option that cannot be used: {error}"
        ) from error


def items(preparation: Preparation, architecture: Architecture, most_images: int) -> list[Prepared]:
    """Prepare two images under one prompt, a longer prompt, and an image of another shape.

    Two images in one prompt follow, if the model takes so many. Those of another shape are left out
    for a model that takes only images of one shape in a batch.
    """
    requests: list[dict[str, Any]] = [
        {"kind": "caption"},
        {"kind": "caption"},
        {"kind": "vqa", "question": "What is in the picture, and where? Name all you see."},
        {"kind": "caption"},
    ]
    options = {"max_new_tokens": TOKENS, "do_sample": False, "num_beams": 1}
    prepared = [
        preparation.prepare({**request, "options": options}, [_image(number)])
        for number, request in enumerate(requests)
    ]
    if most_images > 1:
        compare = {"kind": "vqa", "question": "What differs?", "options": options}
        prepared.append(preparation.prepare(compare, [_image(1), _image(2)]))
    key = architecture.batch_key(prepared[0].inputs)
    return [item for item in prepared if architecture.batch_key(item.inputs) == key]


@torch.inference_mode()  # type: ignore[untyped-decorator]
def run(
    loaded: LoadedModel,
    architecture: Architecture,
    generator: Generator,
    items: Sequence[Prepared],
) -> SelfCheck:
    """Check a loaded model on some items.

    Raises:
        RequestError: The model fails; the message says how.
    """

    def first_logits(some: Sequence[Prepared]) -> torch.Tensor:
        """Logits of the first token: float32 (items, vocabulary)."""
        outputs = loaded.model(**architecture.collate([item.inputs for item in some]))
        scores: torch.Tensor = outputs.logits[:, -1].float().cpu()
        return scores

    alone = torch.cat([first_logits([item]) for item in items])
    together = first_logits(items)
    tokens = [generator.generate_ids([item])[0] for item in items]
    checks = SelfCheck(
        image_effect=float((alone[0] - alone[1]).abs().max()),
        batch_noise=float((alone - together).abs().max()),
        batch_equals_singles=generator.generate_ids(items) == tokens,
    )
    spread = float(alone.std(dim=1).mean())
    name, exact = loaded.card.name, loaded.is_exact
    log.info("self-check of %s: %s (spread of the logits %.3g)", name, checks, spread)
    if not checks.image_effect > MIN_EFFECT * spread:
        raise RequestError(
            f"model {name!r} is refused: its answer does not change when the image changes"
            f" (logits changed by {checks.image_effect:.2g})"
        )
    limit = (MAX_NOISE_EXACT if exact else MAX_NOISE_ROUNDED) * checks.image_effect
    # Not "is larger": NaN must fail too.
    if not checks.batch_noise <= limit or (exact and not checks.batch_equals_singles):
        raise RequestError(
            f"model {name!r} is refused: its answers depend on their neighbours in a batch"
            f" (logits changed by {checks.batch_noise:.2g}, by another image"
            f" {checks.image_effect:.2g})"
        )
    return checks


@torch.inference_mode()  # type: ignore[untyped-decorator]
def ranks_from_cache(preparation: Preparation, ranker: Ranker) -> bool:
    """True if labels scored after a cached prompt score as with `generate`."""
    request = {"kind": "classify", "method": "rank", "labels": ["a cat", "dog"]}
    item = preparation.prepare(request, [_image(0)]).inputs
    assert item.suffixes is not None
    try:
        cached = ranker.cached(item, item.suffixes)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        log.info("labels of %s are ranked without a cache: %s", ranker.loaded.card.name, error)
        return False
    forced = ranker.forced(item, item.suffixes)
    limit = RANK_NOISE_EXACT if ranker.loaded.is_exact else RANK_NOISE_ROUNDED
    pairs = zip(chain(*cached), chain(*forced), strict=True)
    return all(abs(a - b) <= limit for a, b in pairs)


@torch.inference_mode()  # type: ignore[untyped-decorator]
def compare_with_generate(
    loaded: LoadedModel,
    generator: Generator,
    batcher: ContinuousBatcher,
    items: Sequence[Prepared],
) -> str:
    """Compare continuous batching with `generate`: "" if the tokens are equal, or what differs.

    In full precision every token must be the same, and its log probability: sampled tokens depend
    on it. In a smaller dtype sums may be rounded differently, so answers may differ only where the
    logits of both tokens are close.

    Raises:
        torch.OutOfMemoryError: The device has no memory for the items beside the slots.
    """
    accepted = [item for item in items if batcher.accepts(item)][: batcher.count]
    if not accepted:
        return (
            f"the items of the self-check do not fit {batcher.length} tokens (IDEFIQ_SLOT_TOKENS)"
        )
    try:
        sequences = batcher.generate(accepted)
        for item, sequence in zip(accepted, sequences, strict=True):
            if why := _difference(loaded, generator, item, sequence):
                return why
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        return f"its text model does not run in slots: {type(error).__name__}: {error}"
    return ""


def _difference(
    loaded: LoadedModel, generator: Generator, item: Prepared, sequence: ActiveSequence
) -> str:
    """What differs between an answer in slots and that of `generate`; "" if nothing does."""
    recorder, ids = LogprobRecorder(), sequence.tokens
    expected = generator.generate_ids([item], recorder)[0]
    pairs = enumerate(zip(ids, expected, strict=False))
    equal = next((n for n, (a, b) in pairs if a != b), min(len(ids), len(expected)))
    if ids != expected and (
        loaded.is_exact
        or equal == min(len(ids), len(expected))
        or _logit_gap(generator, item, expected, ids, equal) > SLOT_NOISE_ROUNDED
    ):
        return f"answers in slots are not those of generate: {ids}, not {expected}"
    limit = SLOT_NOISE_EXACT if loaded.is_exact else SLOT_NOISE_ROUNDED
    own, other = sequence.logprobs[:equal], recorder.logprobs()[0][:equal]
    # Not "is larger": NaN must fail too.
    if not all(abs(a - b) <= limit for a, b in zip(own, other, strict=True)):
        return "tokens in slots have not the probabilities that generate gives them"
    return ""


def _logit_gap(
    generator: Generator, item: Prepared, expected: list[int], tokens: list[int], step: int
) -> float:
    """Difference between the logits that `generate` gives two tokens at a step."""
    scores: list[torch.Tensor] = []

    class Recorder(LogitsProcessor):  # type: ignore[misc]
        def __call__(self, ids: torch.Tensor, scores_now: torch.Tensor) -> torch.Tensor:
            scores.append(scores_now[0].float())
            return scores_now

    generator.generate_ids([item], Recorder())
    return float(scores[step][expected[step]] - scores[step][tokens[step]])


def _image(number: int) -> Image.Image:
    """Draw one of four different images; the last has another shape."""
    width, height = (72, 120) if number == 3 else (96, 72)
    ground, box = [
        ("navy", "yellow"),
        ("white", "darkred"),
        ("green", "black"),
        ("orange", "blue"),
    ][number]
    image = Image.new("RGB", (width, height), ground)
    image.paste(box, (width // 4, height // 4, width // (2 - number % 2), height // 2))
    return image
