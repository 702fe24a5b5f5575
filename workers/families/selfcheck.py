"""What a model is seen to do before it answers anybody.

Checkpoints have been served for weeks whose answers ignored the image, or changed with their
neighbours in a batch. So a model is asked, when it is loaded: does another picture move the
scores of the first token, and do neighbours leave them alone? What fails is refused.
"""

import logging
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from transformers import LogitsProcessor

from db.cards import Checks
from db.errors import RequestError
from workers.families import ranking

if TYPE_CHECKING:
    from workers.families.base import Prepared
    from workers.families.pinned import Pinned
    from workers.families.slotted import Slotted

#: An effect on the scores below this share of their spread is none.
LEAST_EFFECT = 1e-4
#: Neighbours may move the scores by so much of what another picture does: in full precision
#: next to nothing, in a smaller number format or with quantised weights by its rounding.
MOST_NOISE_EXACT, MOST_NOISE_ROUNDED = 0.01, 0.5
#: So far may the logarithmic probability of a label's token differ between two ways to it.
RANK_NOISE_EXACT, RANK_NOISE_ROUNDED = 1e-3, 0.5
#: So much likelier may the token of `generate` be where an answer in slots parts from it.
SLOT_NOISE_ROUNDED = 0.5
TOKENS = 6

log = logging.getLogger(__name__)


@torch.inference_mode()  # type: ignore[untyped-decorator]
def run(family: "Pinned") -> Checks:
    """Check a loaded family.

    Raises:
        RequestError: It fails; says how.
    """
    items = _items(family)
    alone = torch.cat([_first_scores(family, [item]) for item in items])
    together = _first_scores(family, items)
    said = [family.generate_ids([item])[0] for item in items]
    checks = Checks(
        image_effect=float((alone[0] - alone[1]).abs().max()),
        batch_noise=float((alone - together).abs().max()),
        batch_equals_singles=family.generate_ids(items) == said,
    )
    spread = float(alone.std(dim=1).mean())
    log.info("self-check of %s: %s (scores spread by %.3g)", family.card.name, checks, spread)
    name = family.card.name
    if not checks.image_effect > LEAST_EFFECT * spread:
        raise RequestError(
            f"model {name!r} is refused: its answer does not change when the image changes"
            f" (scores moved by {checks.image_effect:.2g})"
        )
    exact = is_exact(family)
    most = (MOST_NOISE_EXACT if exact else MOST_NOISE_ROUNDED) * checks.image_effect
    # Not "is larger": what is no number fails too.
    if not checks.batch_noise <= most or (exact and not checks.batch_equals_singles):
        raise RequestError(
            f"model {name!r} is refused: its answers depend on their neighbours in a batch"
            f" (scores moved by {checks.batch_noise:.2g}, by another picture"
            f" {checks.image_effect:.2g})"
        )
    return checks


@torch.inference_mode()  # type: ignore[untyped-decorator]
def ranks_from_cache(family: "Pinned") -> bool:
    """Whether labels scored after a cached prompt score as when `generate` says them."""
    request = {"kind": "classify", "method": "rank", "labels": ["a cat", "dog"]}
    item = family.prepare(request, [_picture(0)]).inputs
    assert item.suffixes is not None
    try:
        cached = ranking.cached(family, item, item.suffixes)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        log.info("labels of %s are ranked without a cache: %s", family.card.name, error)
        return False
    forced = ranking.forced(family, item, item.suffixes)
    most = RANK_NOISE_EXACT if is_exact(family) else RANK_NOISE_ROUNDED
    pairs = zip(chain(*cached), chain(*forced), strict=True)
    return all(abs(a - b) <= most for a, b in pairs)


@torch.inference_mode()  # type: ignore[untyped-decorator]
def compare_slots(family: "Pinned", slots: "Slotted") -> str:
    """Why a family must not be served in slots: "" if it says there what `generate` says.

    In full precision every token has to be the same. In a smaller number format two ways of
    adding up may differ, so answers may part only where `generate` itself hesitates.

    Raises:
        torch.OutOfMemoryError: There is no room for them beside the slots.
    """
    items = [item for item in _items(family) if slots.takes(item)][: slots.count]
    if not items:
        return f"not even the items of its check fit {slots.length} tokens (IDEFIQ_SLOT_TOKENS)"
    try:
        said = slots.ids(items)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        return f"its text model does not run in slots: {type(error).__name__}: {error}"
    for item, ids in zip(items, said, strict=True):
        wanted = family.generate_ids([item])[0]
        if ids == wanted:
            continue
        pairs = enumerate(zip(ids, wanted, strict=False))
        parted = next((n for n, (a, b) in pairs if a != b), None)
        if (
            is_exact(family)
            or parted is None
            or _hesitation(family, item, wanted, ids, parted) > SLOT_NOISE_ROUNDED
        ):
            return f"answers in slots are not those of generate: {ids}, not {wanted}"
    return ""


def _hesitation(
    family: "Pinned", item: "Prepared", wanted: list[int], said: list[int], step: int
) -> float:
    """How far apart `generate` holds two tokens at a step: in logarithms of probabilities."""
    scores: list[torch.Tensor] = []

    class Watch(LogitsProcessor):  # type: ignore[misc]
        def __call__(self, ids: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
            scores.append(seen[0].float())
            return seen

    family.generate_ids([item], Watch())
    return float(scores[step][wanted[step]] - scores[step][said[step]])


def is_exact(family: "Pinned") -> bool:
    """Whether two ways of adding up the same numbers should give the same sums."""
    return family.card.dtype == "float32" and family.card.quantize == "none"


def _items(family: "Pinned") -> "list[Prepared]":
    """Two pictures under one prompt, a longer prompt, and a picture of another shape.

    The last is left out for a model that takes only pictures of one shape in a batch.
    """
    requests: list[dict[str, Any]] = [
        {"kind": "caption"},
        {"kind": "caption"},
        {"kind": "vqa", "question": "What is in the picture, and where? Name all you see."},
        {"kind": "caption"},
    ]
    options = {"max_new_tokens": TOKENS, "do_sample": False, "num_beams": 1}
    prepared = [
        family.prepare({**request, "options": options}, [_picture(number)])
        for number, request in enumerate(requests)
    ]
    like = family.like(prepared[0].inputs)
    return [item for item in prepared if family.like(item.inputs) == like]


def _first_scores(family: "Pinned", items: "Sequence[Prepared]") -> torch.Tensor:
    """Scores of the first token: float32 (items, vocabulary)."""
    outputs = family.model(**family.collate([item.inputs for item in items]))
    scores: torch.Tensor = outputs.logits[:, -1].float().cpu()
    return scores


def _picture(number: int) -> Image.Image:
    """Pictures that differ in everything, the last in its shape too."""
    width, height = (72, 120) if number == 3 else (96, 72)
    ground, box = [
        ("navy", "yellow"),
        ("white", "darkred"),
        ("green", "black"),
        ("orange", "blue"),
    ][number]
    picture = Image.new("RGB", (width, height), ground)
    picture.paste(box, (width // 4, height // 4, width // (2 - number % 2), height // 2))
    return picture
