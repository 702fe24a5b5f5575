"""The self-check of a model, run when it is loaded.

Checkpoints have been served for weeks whose answers ignored the image, or changed with their
neighbours in a batch. So a model must show that another image changes the logits of the first
token, and that neighbours do not. A model that fails is not served.
"""

import logging
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from transformers import LogitsProcessor

from db.errors import RequestError
from db.model_info import SelfCheck
from workers.families import ranking

if TYPE_CHECKING:
    from workers.families.base import Prepared
    from workers.families.batching import ContinuousBatcher
    from workers.families.pinned import Pinned

#: A change of the logits below this share of their spread counts as none.
MIN_EFFECT = 1e-4
#: Neighbours may change the logits by this share of what another image changes: next to nothing
#: in full precision, the rounding in a smaller dtype or with quantized weights.
MAX_NOISE_EXACT, MAX_NOISE_ROUNDED = 0.01, 0.5
#: A label token's log probability may differ so much between the two ways to compute it.
RANK_NOISE_EXACT, RANK_NOISE_ROUNDED = 1e-3, 0.5
#: Where an answer in slots differs from `generate`, the two tokens' logits may differ so much.
SLOT_NOISE_ROUNDED = 0.5
TOKENS = 6

log = logging.getLogger(__name__)


@torch.inference_mode()  # type: ignore[untyped-decorator]
def run(family: "Pinned") -> SelfCheck:
    """Check a loaded family.

    Raises:
        RequestError: The model fails; the message says how.
    """
    items = _items(family)
    alone = torch.cat([_first_logits(family, [item]) for item in items])
    together = _first_logits(family, items)
    tokens = [family.generate_ids([item])[0] for item in items]
    checks = SelfCheck(
        image_effect=float((alone[0] - alone[1]).abs().max()),
        batch_noise=float((alone - together).abs().max()),
        batch_equals_singles=family.generate_ids(items) == tokens,
    )
    spread = float(alone.std(dim=1).mean())
    log.info("self-check of %s: %s (spread of the logits %.3g)", family.card.name, checks, spread)
    name = family.card.name
    if not checks.image_effect > MIN_EFFECT * spread:
        raise RequestError(
            f"model {name!r} is refused: its answer does not change when the image changes"
            f" (logits changed by {checks.image_effect:.2g})"
        )
    exact = is_exact(family)
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
def ranks_from_cache(family: "Pinned") -> bool:
    """True if labels scored after a cached prompt score as with `generate`."""
    request = {"kind": "classify", "method": "rank", "labels": ["a cat", "dog"]}
    item = family.prepare(request, [_image(0)]).inputs
    assert item.suffixes is not None
    try:
        cached = ranking.cached(family, item, item.suffixes)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        log.info("labels of %s are ranked without a cache: %s", family.card.name, error)
        return False
    forced = ranking.forced(family, item, item.suffixes)
    limit = RANK_NOISE_EXACT if is_exact(family) else RANK_NOISE_ROUNDED
    pairs = zip(chain(*cached), chain(*forced), strict=True)
    return all(abs(a - b) <= limit for a, b in pairs)


@torch.inference_mode()  # type: ignore[untyped-decorator]
def compare_with_generate(family: "Pinned", batcher: "ContinuousBatcher") -> str:
    """Compare continuous batching with `generate`: "" if the tokens are equal, or what differs.

    In full precision every token must be the same. In a smaller dtype sums may be rounded
    differently, so answers may differ only where the logits of both tokens are close.

    Raises:
        torch.OutOfMemoryError: The device has no memory for the items beside the slots.
    """
    items = [item for item in _items(family) if batcher.accepts(item)][: batcher.count]
    if not items:
        return (
            f"the items of the self-check do not fit {batcher.length} tokens (IDEFIQ_SLOT_TOKENS)"
        )
    try:
        tokens = batcher.generate_ids(items)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        return f"its text model does not run in slots: {type(error).__name__}: {error}"
    for item, ids in zip(items, tokens, strict=True):
        expected = family.generate_ids([item])[0]
        if ids == expected:
            continue
        pairs = enumerate(zip(ids, expected, strict=False))
        differs_at = next((n for n, (a, b) in pairs if a != b), None)
        if (
            is_exact(family)
            or differs_at is None
            or _logit_gap(family, item, expected, ids, differs_at) > SLOT_NOISE_ROUNDED
        ):
            return f"answers in slots are not those of generate: {ids}, not {expected}"
    return ""


def _logit_gap(
    family: "Pinned", item: "Prepared", expected: list[int], tokens: list[int], step: int
) -> float:
    """Difference between the logits that `generate` gives two tokens at a step."""
    scores: list[torch.Tensor] = []

    class Recorder(LogitsProcessor):  # type: ignore[misc]
        def __call__(self, ids: torch.Tensor, scores_now: torch.Tensor) -> torch.Tensor:
            scores.append(scores_now[0].float())
            return scores_now

    family.generate_ids([item], Recorder())
    return float(scores[step][expected[step]] - scores[step][tokens[step]])


def is_exact(family: "Pinned") -> bool:
    """True if equal computations in another order should give equal tokens."""
    return family.card.dtype == "float32" and family.card.quantize == "none"


def _items(family: "Pinned") -> "list[Prepared]":
    """Prepare two images under one prompt, a longer prompt, and an image of another shape.

    The last is left out for a model that takes only images of one shape in a batch.
    """
    requests: list[dict[str, Any]] = [
        {"kind": "caption"},
        {"kind": "caption"},
        {"kind": "vqa", "question": "What is in the picture, and where? Name all you see."},
        {"kind": "caption"},
    ]
    options = {"max_new_tokens": TOKENS, "do_sample": False, "num_beams": 1}
    prepared = [
        family.prepare({**request, "options": options}, [_image(number)])
        for number, request in enumerate(requests)
    ]
    key = family.batch_key(prepared[0].inputs)
    return [item for item in prepared if family.batch_key(item.inputs) == key]


def _first_logits(family: "Pinned", items: "Sequence[Prepared]") -> torch.Tensor:
    """Logits of the first token: float32 (items, vocabulary)."""
    outputs = family.model(**family.collate([item.inputs for item in items]))
    scores: torch.Tensor = outputs.logits[:, -1].float().cpu()
    return scores


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
