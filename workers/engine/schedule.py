"""The schedule of a device: what it does next. No torch, no database, no clock.

    waiting ─▶ Admit(items)     prefill: there are free slots, and enough items for a pass
            ─▶ DecodeStep       items are in slots
            ─▶ Generate(items)  items that no slot accepts, with equal options
            ─▶ None             nothing to do

Items are scheduled first in, first out, except that chat completions overtake: all items of their
owner, and those of other owners a few times. An item that may have crashed a worker runs alone on
the device.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from db.queue.lease import Lease
from db.vocabulary.states import SourceApi
from workers.families.base import Prepared

#: Waiting items are prefilled once they fill this share of all slots: each prefill is a pass.
REFILL_SHARE = 1 / 4
#: Actions for items in slots between two batches of `generate`.
ACTIONS_BETWEEN_BATCHES = 16
#: An item is overtaken by so many chat completions of other owners, so that none can starve it.
MAX_OVERTAKEN = 4


@dataclass(eq=False, slots=True)
class ScheduledItem:
    """A prepared item that waits for the device.

    Attributes:
        fits_slot: True if a slot accepts it.
        prefill_cost: See SlotEngine.prefill_cost.
        runs_alone: True if it must run with nothing else on the device.
        restarted: True if it was admitted again after a step ran out of memory.
        device_seconds: Time on the device so far; what runs side by side shares it.
        overtaken: How many chat completions of other owners have overtaken it.
    """

    lease: Lease
    item: Prepared
    fits_slot: bool
    prefill_cost: int
    runs_alone: bool
    restarted: bool = False
    device_seconds: float = 0.0
    overtaken: int = 0

    @property
    def is_urgent(self) -> bool:
        """True if a caller waits for its first token."""
        return self.lease.source_api is SourceApi.CHAT


@dataclass(frozen=True, slots=True)
class Admit:
    """Prefill items into slots."""

    items: list[ScheduledItem]


@dataclass(frozen=True, slots=True)
class Generate:
    """Answer a batch of items with `generate`."""

    items: list[ScheduledItem]


class DecodeStep:
    """Generate the next token of all items in slots."""


DECODE_STEP = DecodeStep()


class Schedule:
    """The items that wait for the device, and the order in which it runs them.

    Args:
        slots: Number of slots, 0 for a model without.
        budget: Most prefill cost of one pass, in tokens.
        batch_items: Most items in a batch for `generate`.
    """

    def __init__(self, *, slots: int, budget: int, batch_items: int) -> None:
        self.budget, self._batch_items = budget, batch_items
        #: Slots in use at most.
        self.slots = slots
        self._waiting: deque[ScheduledItem] = deque()
        self._is_alone = False
        #: Waiting items that run alone.
        self._alone = 0
        #: Actions since the last batch of `generate`.
        self._since_batch = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, items: Iterable[ScheduledItem]) -> None:
        """Queue items."""
        for one in items:
            at = len(self._waiting)
            while one.is_urgent and at and self._overtakes(one, self._waiting[at - 1]):
                at -= 1
            self._waiting.insert(at, one)
            self._alone += one.runs_alone

    @staticmethod
    def _overtakes(urgent: ScheduledItem, other: ScheduledItem) -> bool:
        if other.is_urgent or other.runs_alone or other.overtaken >= MAX_OVERTAKEN:
            return False
        other.overtaken += urgent.lease.owner_id != other.lease.owner_id
        return True

    def put_back(self, items: Iterable[ScheduledItem]) -> None:
        """Queue items again, before all others and in their order."""
        before = list(items)
        self._waiting.extendleft(reversed(before))
        self._alone += sum(one.runs_alone for one in before)

    def take_all(self) -> list[ScheduledItem]:
        """Remove and return all items."""
        return self._remove(list(self._waiting))

    def waits_for_more(self, expected: int) -> bool:
        """True if `next` returns None until more items are put; not always known.

        It is asked for each item that is put, so that a batch wakes the device once.
        """
        is_open = 0 < len(self._waiting) < self._batch_items and not self._alone
        return bool(expected) and is_open and not self.slots

    def next(self, in_slots: int, expected: int = 0) -> Admit | Generate | DecodeStep | None:
        """Return the next action, or None.

        Args:
            in_slots: Number of items in slots.
            expected: Number of items that are being prepared and will soon be put.
        """
        if self.waits_for_more(expected):
            return None
        if self._is_alone and in_slots:
            return DECODE_STEP
        self._is_alone = False
        group = self._group(in_slots)
        if batch := self._batch(in_slots, expected, len(group)):
            self._since_batch = 0
            return Generate(self._remove(batch))
        if group and self._should_admit(group, in_slots, expected):
            self._since_batch += 1
            self._is_alone = group[0].runs_alone
            return Admit(self._remove(group))
        self._since_batch += bool(in_slots)
        return DECODE_STEP if in_slots else None

    def _group(self, in_slots: int) -> list[ScheduledItem]:
        """Items that could be admitted in one pass."""
        group: list[ScheduledItem] = []
        prefill_cost = 0
        for one in self._waiting:
            if one.runs_alone:
                # Items before it go first, items after it wait.
                is_next = one is self._waiting[0] and not in_slots and one.fits_slot
                return [one] if is_next else group
            if not one.fits_slot:
                continue
            if len(group) >= self.slots - in_slots or (
                group and prefill_cost + one.prefill_cost > self.budget
            ):
                break
            group.append(one)
            prefill_cost += one.prefill_cost
        return group

    def _should_admit(self, group: list[ScheduledItem], in_slots: int, expected: int) -> bool:
        refill = max(1, int(self.slots * REFILL_SHARE))
        if not in_slots or len(group) >= refill or any(one.is_urgent for one in group):
            return True
        left = len(self._waiting) - len(group)
        if left and len(group) >= self.slots - in_slots:
            return False  # more slots will soon be free
        # No more items are expected, or they would not fit this pass anyway.
        return not expected or left > 0

    def _batch(self, in_slots: int, expected: int, admissible: int) -> list[ScheduledItem]:
        """A batch for `generate`, if it is time for one."""
        first = next((one for one in self._waiting if not one.fits_slot), None)
        if first is None:
            return []
        if first.runs_alone:
            return [first] if not in_slots and self._waiting[0] is first else []
        batch: list[ScheduledItem] = []
        grows = bool(expected)
        for one in self._waiting:
            if one.runs_alone or len(batch) == self._batch_items:
                grows = False
                break
            if not one.fits_slot and one.lease.options_digest == first.lease.options_digest:
                batch.append(one)
        if in_slots or admissible:  # items for slots have their turns too
            is_due = self._since_batch >= ACTIONS_BETWEEN_BATCHES
            return batch if is_due else []
        return batch if len(batch) == self._batch_items or not grows else []

    def _remove(self, items: list[ScheduledItem]) -> list[ScheduledItem]:
        removed = {id(one) for one in items}
        self._waiting = deque(one for one in self._waiting if id(one) not in removed)
        self._alone -= sum(one.runs_alone for one in items)
        return items
