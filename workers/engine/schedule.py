"""What the device does next: pure, no torch, no database.

    waiting ─▶ Admit(items)     free slots, and enough items that more do not soon come
            ─▶ STEP             items are in slots
            ─▶ Generate(items)  what no slot takes: like items, a full batch if more are coming
            ─▶ None             nothing to do

Items come in the order in which they are put, except that what somebody reads along goes first.
An item that may have cost a worker its life runs with nothing else on the device.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from db.leases import Lease
from db.states import Origin
from workers.families.base import Prepared

#: Slots are refilled when so large a share of them is free: each refill costs a pass of its own.
REFILL_SHARE = 1 / 4
#: Between two batches for `generate`, items in slots have so many turns of the device.
PATIENCE = 16


@dataclass(eq=False, slots=True)
class Loaded:
    """An item ready for the device.

    Attributes:
        session: Which holds its lease.
        fits_slot: Whether it can be answered in a slot.
        cost: Of its first token, see Joining.cost.
        alone: Whether it is to run with nothing else on the device.
        restarted: Whether it was begun again because a step did not fit the device.
    """

    lease: Lease
    session: str
    item: Prepared
    fits_slot: bool
    cost: int
    alone: bool
    restarted: bool = False

    @property
    def is_urgent(self) -> bool:
        """Whether somebody waits for its first word."""
        return self.lease.origin is Origin.CHAT


@dataclass(frozen=True, slots=True)
class Admit:
    """Begin items in slots."""

    items: list[Loaded]


@dataclass(frozen=True, slots=True)
class Generate:
    """Answer a batch of like items with `generate`."""

    items: list[Loaded]


class Step:
    """Say the next token of all items in slots."""


STEP = Step()


class Schedule:
    """Which items wait for the device, and what it does next.

    Args:
        slots: How many there are, 0 for a model without.
        budget: Most work before the first token that one pass may take, in tokens.
        batch_items: Most items in a batch for `generate`.
    """

    def __init__(self, *, slots: int, budget: int, batch_items: int) -> None:
        self.budget, self._batch_items = budget, batch_items
        #: Slots that may be used.
        self.most = slots
        self._waiting: deque[Loaded] = deque()
        #: Items that are being loaded and will soon be put.
        self.coming = 0
        self._is_alone = False
        #: Acts since the last batch for `generate`.
        self._others = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, items: Iterable[Loaded]) -> None:
        """Let items wait for their turn."""
        for one in items:
            if one.is_urgent:
                # Behind those who read along already, and behind what is to run alone next.
                first = (n for n, o in enumerate(self._waiting) if not (o.is_urgent or o.alone))
                self._waiting.insert(next(first, len(self._waiting)), one)
            else:
                self._waiting.append(one)

    def put_back(self, items: Iterable[Loaded]) -> None:
        """Let items have their turn again, before all others and in their order."""
        self._waiting.extendleft(reversed(list(items)))

    def take_all(self) -> list[Loaded]:
        """Let nothing wait any more."""
        left = list(self._waiting)
        self._waiting.clear()
        return left

    def next(self, in_slots: int) -> Admit | Generate | Step | None:
        """What to do next.

        Args:
            in_slots: How many items are in slots.
        """
        if self._is_alone and in_slots:
            return STEP
        self._is_alone = False
        group = self._group(in_slots)
        if batch := self._batch(in_slots, len(group)):
            self._others = 0
            return Generate(self._taken(batch))
        if group and self._is_time(group, in_slots):
            self._others += 1
            self._is_alone = group[0].alone
            return Admit(self._taken(group))
        self._others += bool(in_slots)
        return STEP if in_slots else None

    def _group(self, in_slots: int) -> list[Loaded]:
        """What could be admitted in one pass."""
        group: list[Loaded] = []
        cost = 0
        for one in self._waiting:
            if one.alone:
                # Whoever came before it goes first, whoever comes after it waits.
                is_next = one is self._waiting[0] and not in_slots and one.fits_slot
                return [one] if is_next else group
            if not one.fits_slot:
                continue
            if len(group) >= self.most - in_slots or (group and cost + one.cost > self.budget):
                break
            group.append(one)
            cost += one.cost
        return group

    def _is_time(self, group: list[Loaded], in_slots: int) -> bool:
        refill = max(1, int(self.most * REFILL_SHARE))
        if not in_slots or len(group) >= refill or any(one.is_urgent for one in group):
            return True
        left = len(self._waiting) - len(group)
        if left and len(group) >= self.most - in_slots:
            return False  # soon more slots are free
        # Nothing more to wait for, or too much for one pass anyway.
        return not self.coming or left > 0

    def _batch(self, in_slots: int, could_join: int) -> list[Loaded]:
        """A batch for `generate`, if it is its turn."""
        first = next((one for one in self._waiting if not one.fits_slot), None)
        if first is None:
            return []
        if first.alone:
            return [first] if not in_slots and self._waiting[0] is first else []
        batch: list[Loaded] = []
        grows = bool(self.coming)
        for one in self._waiting:
            if one.alone or len(batch) == self._batch_items:
                grows = False
                break
            if not one.fits_slot and one.lease.options_digest == first.lease.options_digest:
                batch.append(one)
        if in_slots or could_join:  # they have their turns too
            is_due = self._others >= PATIENCE
            return batch if is_due else []
        return batch if len(batch) == self._batch_items or not grows else []

    def _taken(self, items: list[Loaded]) -> list[Loaded]:
        gone = {id(one) for one in items}
        self._waiting = deque(one for one in self._waiting if id(one) not in gone)
        return items
