"""Our answers against transformers called as its own documentation calls it.

Every case is written twice: as a request to the service, and by hand as the documentation would
put it to a processor. Both go through fp32 weights, and the tokens must be the same: alone, in a
batch of all cases of the kind, and in that batch backwards. The cases are in cases.py, the calls of
transformers in reference.py.

`make test-families` prints a line for each checkpoint and kind and writes docs/models.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from db.vocabulary.model_info import ModelInfo, Serving
from db.vocabulary.requests import options_digest
from tests.workers.answering import ids_in_slots
from tests.workers.families.cases import CASES, Case, pictures, request_of
from tests.workers.families.reference import Reference
from workers import families
from workers.families.base import Prepared
from workers.families.family import TransformersFamily
from workers.settings import EngineSettings

#: fp32 noise between two ways of adding up the same numbers.
RANK_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Comparison:
    """How one kind went on one checkpoint: cases compared, and equal.

    Attributes:
        single: Equal alone.
        batch: In batches, of `batched`.
        slots: In slots, of `slotted`, which is 0 where no slot takes them.
    """

    model: ModelInfo
    kind: str
    cases: int
    single: int
    batch: int
    batched: int
    slots: int = 0
    slotted: int = 0

    @property
    def serving(self) -> Serving:
        """How the model is served."""
        assert self.model.serving
        return self.model.serving

    def __str__(self) -> str:
        return (
            f"{self.model.name:22} {self.kind:9} single {self.single}/{self.cases} equal,"
            f" batch {self.batch}/{self.batched} equal, slots {self.slots}/{self.slotted} equal"
        )


def cases_for(family: TransformersFamily, kind: str) -> list[Case]:
    """The cases of a kind that a model of this style and these limits takes."""
    limits = family.card.limits
    return [
        case
        for case in CASES[kind]
        if (case.plain is not None or family.card.style == "chat")
        and limits.min_images <= case.images <= limits.max_images
        and len(case.request.get("examples", ())) <= limits.max_examples
    ]


@torch.inference_mode()  # type: ignore[untyped-decorator]
def compare(family: TransformersFamily, reference: Reference, kind: str) -> Comparison | None:
    """Compare all cases of a kind; None if the model's style has none."""
    shown = pictures()
    cases = cases_for(family, kind)
    if not cases:
        return None
    prepared = [_prepare(family, kind, case, shown) for case in cases]
    if kind == "rank":
        return _compare_ranked(family, reference, cases, prepared)
    expected = [reference.answer(case, shown) for case in cases]
    alone = [family.generator.generate_ids([item])[0] for item in prepared]
    batch = batched = 0
    for some in _like(family, prepared):
        for order in (some, some[::-1]):
            said = family.generator.generate_ids([prepared[index] for index in order])
            batched += len(order)
            batch += sum(a == expected[i] for a, i in zip(said, order, strict=True))
    single = sum(a == b for a, b in zip(alone, expected, strict=True))
    slots, slotted = _compare_slots(family, prepared, expected)
    return Comparison(family.card, kind, len(cases), single, batch, batched, slots, slotted)


def _compare_slots(
    family: TransformersFamily, prepared: Sequence[Prepared], expected: Sequence[list[int]]
) -> tuple[int, int]:
    """All together, and backwards with no more than two at a time."""
    slots = family.slot_engine
    if slots is None:
        return 0, 0
    taken = [index for index, item in enumerate(prepared) if slots.accepts(item)]
    equal = 0
    for order, at_once in ((taken, len(taken)), (taken[::-1], 2)):
        said = ids_in_slots(slots, [prepared[index] for index in order], at_once)
        equal += sum(ids == expected[index] for ids, index in zip(said, order, strict=True))
    return equal, 2 * len(taken)


def _prepare(
    family: TransformersFamily, kind: str, case: Case, shown: Sequence[Image.Image]
) -> Prepared:
    """With the request's own images first and those of its examples after them, as they come."""
    return family.prepare(request_of(kind, case), shown[: case.images])


def _like(family: TransformersFamily, prepared: Sequence[Prepared]) -> list[list[int]]:
    groups: dict[Any, list[int]] = {}
    for index, item in enumerate(prepared):
        key = (options_digest(item.request), family.architecture.batch_key(item.inputs))
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def _compare_ranked(
    family: TransformersFamily,
    reference: Reference,
    cases: Sequence[Case],
    prepared: Sequence[Prepared],
) -> Comparison:
    shown = pictures()
    equal = {1: 0, -1: 0}
    for step in equal:
        answers = family.generate(prepared[::step])[::step]
        for case, answer in zip(cases, answers, strict=True):
            expected = reference.scores(case, shown)
            pairs = zip(expected, answer.scores or (), strict=True)
            equal[step] += all(abs(a - b.logprob) < RANK_TOLERANCE for a, b in pairs)
    return Comparison(family.card, "rank", len(cases), equal[1], equal[-1], len(cases))


def load(folder: Path, name: str) -> TransformersFamily:
    """A checkpoint as the service loads it."""
    settings = EngineSettings(model=name, model_path=str(folder), max_new_tokens=64, slots=16)
    family = families.load(settings)
    assert isinstance(family, TransformersFamily)
    return family
