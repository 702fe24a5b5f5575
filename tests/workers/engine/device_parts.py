"""Small devices, whose memory and faults are told by the items themselves."""

import queue
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from db.queue.lease import Lease
from db.vocabulary.errors import IdefiqError
from db.vocabulary.model_info import ModelInfo, ModelLimits
from db.vocabulary.states import SourceApi
from tests.servers import PATIENCE_SECONDS
from workers.engine.device import Device
from workers.engine.halving import ItemOutcome
from workers.engine.in_flight import InFlight, ItemStep
from workers.engine.schedule import Schedule, ScheduledItem
from workers.families.base import Answer, Prepared

CARD = ModelInfo(
    name="small",
    family="echo",
    kinds=["caption"],
    limits=ModelLimits(max_images=1, max_new_tokens=8),
    license="Apache-2.0",
)
_numbers = count(1)


def loaded(
    tokens: int = 1,
    *,
    says: int = 1,
    breaks: Exception | None = None,
    options: str = "",
    alone: bool = False,
    chat: bool = False,
    in_slot: bool = False,
    owner_id: int = 1,
) -> ScheduledItem:
    """An item with a lease of its own.

    Args:
        says: Tokens of its answer.
        breaks: What the device raises as soon as it is on it.
    """
    request = {"tokens": tokens, "says": says}
    lease = Lease(
        item_id=next(_numbers),
        session_id="session",
        claim_number=1,
        attempts=0,
        rescues=0,
        hang_count=0,
        job_id="job",
        owner_id=owner_id,
        model="small",
        request=request,
        options_digest=options,
        images=[],
        examples=[],
        shares_examples=False,
        source_api=SourceApi.CHAT if chat else SourceApi.JOB,
    )
    item = Prepared(request, tokens, breaks)
    return ScheduledItem(lease, item, in_slot, tokens, alone)


def answer(item: Prepared) -> Answer:
    return Answer(str(item.tokens), "stop", 1, 1, "t/1")


class SmallSlots:
    """Slots of a device with room for `fits` tokens, prompts and what is said together."""

    def __init__(self, fits: int, slots: int) -> None:
        self.fits, self.count, self.shrunk = fits, slots, 0
        self.admitted, self.held = list[int](), dict[int, tuple[Prepared, int]]()

    def accepts(self, item: Prepared) -> bool:
        return True

    def prefill_cost(self, item: Prepared) -> int:
        return item.tokens

    def admit(self, items: Sequence[Prepared]) -> list[tuple[Prepared, Answer | IdefiqError]]:
        assert len(self.held) + len(items) <= self.count
        self.admitted.append(len(items))
        self._check(items)
        for item in items:
            if item.inputs:
                raise item.inputs
        self.held |= {id(item): (item, item.request["says"]) for item in items}
        return self._said()

    def decode_step(self) -> list[tuple[Prepared, Answer | IdefiqError]]:
        assert self.held
        self._check()
        return self._said()

    def clear(self) -> None:
        self.held.clear()

    def free_caches(self) -> None:
        pass

    def reduce_memory(self) -> None:
        self.shrunk += 1

    def _check(self, new: Sequence[Prepared] = ()) -> None:
        said = sum(item.tokens + item.request["says"] - left for item, left in self.held.values())
        if said + sum(item.tokens for item in new) > self.fits:
            raise MemoryError

    def _said(self) -> list[tuple[Prepared, Answer | IdefiqError]]:
        self.held = {key: (item, left - 1) for key, (item, left) in self.held.items()}
        over = [item for item, left in self.held.values() if not left]
        for item in over:
            del self.held[id(item)]
        return [(item, answer(item)) for item in over]


class SmallFamily:
    """A family for a device that takes batches of `fits` tokens and breaks on some inputs."""

    card, target_size = CARD, None

    def __init__(self, fits: int, slots: int = 0) -> None:
        self.fits, self.ran = fits, list[int]()
        self.slot_engine = SmallSlots(fits, slots) if slots else None

    def prepare(self, request: dict[str, Any], images: Sequence[object]) -> Prepared:
        raise NotImplementedError

    def generate(self, batch: Sequence[Prepared]) -> list[Answer]:
        self.ran.append(len(batch))
        if sum(item.tokens for item in batch) > self.fits:
            raise MemoryError
        for item in batch:
            if item.inputs:
                raise item.inputs
        return [answer(item) for item in batch]


class Run:
    """A device that runs, and what became of its items.

    Args:
        may_start: Asked when an item's turn has come.
    """

    def __init__(
        self,
        family: SmallFamily,
        *,
        may_start: Callable[[ScheduledItem], bool] = lambda one: True,
        stuck_seconds: float = 60.0,
        probe: Callable[[], None] = lambda: None,
        on_broken: Callable[[], None] = lambda: None,
        batch_items: int = 64,
        budget: int = 1000,
    ) -> None:
        slots = family.slot_engine.count if family.slot_engine else 0
        self._in_flight = InFlight()
        self.device = Device(
            family,
            Schedule(slots=slots, budget=budget, batch_items=batch_items),
            self._in_flight,
            stuck_seconds=stuck_seconds,
            probe=probe,
            on_broken=on_broken,
        )
        self.ended: queue.SimpleQueue[tuple[ScheduledItem, ItemOutcome | None]] = (
            queue.SimpleQueue()
        )
        self.device.start(may_start, lambda one, outcome: self.ended.put((one, outcome)))

    def prepare(self, items: Sequence[ScheduledItem]) -> None:
        """Begin to prepare items that are put later, or that fail."""
        self._in_flight.add((one.lease for one in items), ItemStep.PREPARING)

    def fail(self, items: Sequence[ScheduledItem]) -> None:
        """Let items fail that were being prepared."""
        self._in_flight.move((one.lease for one in items), ItemStep.WRITING)

    def put(self, items: Sequence[ScheduledItem]) -> None:
        """Hand items over, none of them before all are there."""
        with self._in_flight.changed:
            self._in_flight.add((one.lease for one in items), ItemStep.PREPARING)
            for one in items:
                self.device.put(one)

    def ends(self, items: Sequence[ScheduledItem]) -> list[str]:
        """What each of the items ended with, once all have: text, code of an error, or "back"."""
        found: dict[int, str] = {}
        while len(found) < len(items):
            one, outcome = self.ended.get(timeout=PATIENCE_SECONDS)
            assert one.lease.item_id not in found
            found[one.lease.item_id] = _show(outcome)
        assert self.ended.empty()
        return [found[one.lease.item_id] for one in items]


def _show(outcome: ItemOutcome | None) -> str:
    if outcome is None:
        return "back"
    return outcome.text if isinstance(outcome, Answer) else outcome.code


def ends(family: SmallFamily, *items: ScheduledItem, **options: Any) -> list[str]:
    """What items end with that are put together on a device of their own."""
    run = Run(family, **options)
    run.put(items)
    found = run.ends(items)
    run.device.close()
    return found
