"""What an engine does with a family, without the engine."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from workers.families.base import Answer, Family, Prepared, SlotEngine
from workers.families.batching import ContinuousBatcher
from workers.families.family import TransformersFamily
from workers.families.generator import Generator
from workers.families.preparation import Preparation


def changed(family: TransformersFamily, **changes: Any) -> TransformersFamily:
    """A family with another fact about its loaded model, which only `generate` answers."""
    loaded = replace(family.loaded, **changes)
    architecture = type(family.architecture)(loaded)
    return replace(
        family,
        loaded=loaded,
        architecture=architecture,
        preparation=Preparation(loaded, architecture),
        generator=Generator(loaded, architecture),
        ranker=replace(family.ranker, loaded=loaded, architecture=architecture),
        slot_engine=None,
    )


def in_slots(slots: SlotEngine, items: Sequence[Prepared], at_once: int = 1000) -> list[Answer]:
    """Answer items in slots: as many as there is room for, the next when one leaves."""
    waiting, answers = list(items), dict[int, Answer]()
    held = 0
    while waiting or held:
        over = []
        if room := min(slots.count, at_once, held + len(waiting)) - held:
            over += slots.admit(waiting[:room])
            del waiting[:room]
            held += room
        over += slots.decode_step()
        for item, answer in over:
            assert isinstance(answer, Answer)
            answers[id(item)] = answer
        held -= len(over)
    return [answers[id(item)] for item in items]


@torch.inference_mode()  # type: ignore[untyped-decorator]
def ids_in_slots(
    slotted: ContinuousBatcher, items: Sequence[Prepared], at_once: int = 1000
) -> list[list[int]]:
    """The same, but the tokens themselves."""
    rows = [slotted.sequence(item) for item in items]
    slots, waiting, held = slotted.engine, list(rows), 0
    while waiting or held:
        if room := min(slots.count, at_once, held + len(waiting)) - held:
            held += room - len(slots.admit(waiting[:room]))
            del waiting[:room]
        held -= len(slots.decode_step())
    return [row.tokens for row in rows]


def generated(family: Family, item: Prepared) -> Answer:
    """Answer an item by `generate`, and whatever is to be asked after it."""
    while True:
        [answer] = family.generate([item])
        more = item.follow_up(answer) if item.follow_up else answer
        if isinstance(more, Answer):
            return more
        item = more
