"""The registry of items in flight: what this engine has claimed and not yet written.

    claim ─▶ CLAIMED ─▶ PREPARING ─▶ ON_DEVICE ─▶ WRITING ─▶ removed
                │           └────────────────────────▲
                └── follows an equal item, or has an answer already

Everything that depends on how much is in flight asks here: how many items to claim, whether the
device should wait for more, and whether the engine is idle.
"""

import threading
from collections import Counter
from collections.abc import Iterable
from enum import Enum, auto

from db.queue.lease import Lease


class ItemStep(Enum):
    """What an item in flight waits for."""

    #: A look into the answer cache, or the answer of an equal item.
    CLAIMED = auto()
    #: Its images are read and its prompt is made; it will soon be on the device.
    PREPARING = auto()
    #: It waits for the device or is on it.
    ON_DEVICE = auto()
    #: Its end is to be written.
    WRITING = auto()


class InFlight:
    """The items in flight. Thread-safe.

    Attributes:
        changed: Notified when no item is prepared any more, and by the device. Whoever holds it
            sees no change but its own.
        removed: Notified when items are removed; it has the same lock.
    """

    def __init__(self) -> None:
        lock = threading.RLock()
        # Two, so that who waits for room is not woken by each item that is prepared.
        self.changed, self.removed = threading.Condition(lock), threading.Condition(lock)
        self._steps: dict[tuple[int, int], ItemStep] = {}
        self._counts: Counter[ItemStep] = Counter()

    def __len__(self) -> int:
        with self.changed:
            return len(self._steps)

    def count(self, step: ItemStep) -> int:
        """Return the number of items at a step."""
        with self.changed:
            return self._counts[step]

    def add(self, leases: Iterable[Lease], step: ItemStep = ItemStep.CLAIMED) -> None:
        """Add items that were claimed."""
        with self.changed:
            for lease in leases:
                self._steps[_key(lease)] = step
                self._counts[step] += 1

    def move(self, leases: Iterable[Lease], step: ItemStep) -> None:
        """Record what items wait for now. An item that was removed stays so."""
        with self.changed:
            for lease in leases:
                if before := self._steps.get(_key(lease)):
                    self._counts[before] -= 1
                    self._steps[_key(lease)] = step
                    self._counts[step] += 1
            self._tell_prepared()

    def remove(self, leases: Iterable[Lease]) -> None:
        """Remove items that were written, or given up. Safe to repeat."""
        with self.changed:
            for lease in leases:
                if before := self._steps.pop(_key(lease), None):
                    self._counts[before] -= 1
            self._tell_prepared()
            self.removed.notify_all()

    def _tell_prepared(self) -> None:
        if not self._counts[ItemStep.PREPARING]:
            self.changed.notify_all()


def _key(lease: Lease) -> tuple[int, int]:
    # A lost item may be claimed again before the engine has let go of the lost lease.
    return lease.item_id, lease.claim_number
