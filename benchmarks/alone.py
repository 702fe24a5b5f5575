"""The engine without a service around it: bytes in, answers out, nothing stored."""

import queue
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from db.queue.lease import Lease
from db.vocabulary.states import SourceApi
from workers import families
from workers.engine.device import Device, device_thread
from workers.engine.halving import ItemOutcome
from workers.engine.in_flight import InFlight, ItemStep
from workers.engine.schedule import Schedule, ScheduledItem
from workers.families.base import Answer
from workers.images import decode
from workers.settings import EngineSettings


class Asked(Protocol):
    """A request, and where the bytes of its picture come from."""

    @property
    def request(self) -> dict[str, Any]:
        """Request with options, as the API takes it."""

    def read(self) -> bytes:
        """Called in a thread of the loaders."""


class Alone:
    """A loaded model, fed from memory as an engine worker feeds it from the record."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings, self._thread = settings, device_thread()
        self.family = self._thread.submit(families.load, settings).result()
        slots = self.family.slot_engine.count if self.family.slot_engine else 0
        self._most_in_hand = (slots or settings.batch_items) + settings.batch_items
        self._schedule = Schedule(
            slots=slots, budget=settings.patches_at_once, batch_items=settings.batch_items
        )
        self._ended: queue.SimpleQueue[tuple[ScheduledItem, ItemOutcome | None]] = (
            queue.SimpleQueue()
        )
        self._in_flight = InFlight()
        self._device = Device(
            self.family,
            self._schedule,
            self._in_flight,
            stuck_seconds=600,
            probe=lambda: None,
            on_broken=lambda: None,
            thread=self._thread,
        )
        self._device.start(lambda one: True, lambda one, ended: self._ended.put((one, ended)))
        self._loaders = ThreadPoolExecutor(settings.load_threads)

    def answer(self, asked: Sequence[Asked]) -> list[Answer]:
        """Answer all, in their order."""
        answers: dict[int, Answer] = {}
        begun = 0
        while len(answers) < len(asked):
            while begun < len(asked) and begun - len(answers) < self._most_in_hand:
                lease = _lease(begun, asked[begun])
                self._in_flight.add([lease], ItemStep.PREPARING)
                self._loaders.submit(self._load, lease, asked[begun])
                begun += 1
            one, outcome = self._ended.get()
            self._in_flight.remove([one.lease])
            if not isinstance(outcome, Answer):
                self.close()
                raise SystemExit(f"an item was not answered: {outcome!r}")
            answers[one.lease.item_id] = outcome
        return [answers[number] for number in range(len(asked))]

    def use(self, slots: int) -> None:
        """Use so many slots from now on; nothing may be in them."""
        self._schedule.slots = slots

    def close(self) -> None:
        """End its threads."""
        self._loaders.shutdown()
        self._device.close()

    def _load(self, lease: Lease, asked: Asked) -> None:
        item = self.family.prepare(asked.request, [decode(asked.read())])
        slots = self.family.slot_engine
        fits = slots is not None and slots.accepts(item)
        cost = slots.prefill_cost(item) if slots else item.tokens
        self._device.put(ScheduledItem(lease, item, fits, cost, runs_alone=False))


def _lease(number: int, asked: Asked) -> Lease:
    return Lease(
        item_id=number,
        session_id="",
        claim_number=1,
        attempts=0,
        rescues=0,
        hang_count=0,
        job_id="",
        owner_id=1,
        model="",
        request=asked.request,
        options_digest=str(asked.request.get("options")),
        images=[],
        examples=[],
        shares_examples=False,
        source_api=SourceApi.JOB,
    )
