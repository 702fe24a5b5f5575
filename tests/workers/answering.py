"""What an engine does with a family, without the engine."""

from collections.abc import Sequence

import torch

from workers.families.base import Answer, Family, Prepared, SlotEngine
from workers.families.batching import ContinuousBatcher


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
    rows = [slotted._sequence(item) for item in items]
    slots, waiting, held = slotted._engine, list(rows), 0
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
