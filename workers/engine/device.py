"""The device: runs one action at a time, smaller when memory runs out, under a watchdog."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from db import failpoints
from db.tracing import work_span
from db.vocabulary.errors import EngineError, IdefiqError, OutOfMemory
from workers.decoding import metrics
from workers.engine.halving import HalvingBatches, ItemOutcome, ids_of
from workers.engine.in_flight import InFlight, ItemStep
from workers.engine.schedule import Admit, DecodeStep, Generate, Schedule, ScheduledItem
from workers.families.base import Answer, Family, SlotFull
from workers.metrics import STEP_SECONDS

log = logging.getLogger(__name__)


def device_thread() -> ThreadPoolExecutor:
    """Create the one thread that loads a model and runs it.

    On a CPU, torch gives each thread that calls it an OpenMP team of its own. With more threads in
    teams than cores, all of them sleep at every barrier instead of spinning: a second team, though
    idle, made a batch a quarter slower.
    """
    return ThreadPoolExecutor(1, thread_name_prefix="device")


class Device:
    """Runs the actions of the schedule, one after the other, in a thread of its own.

    Args:
        family: The loaded model.
        schedule: Holds the items that wait for the device.
        in_flight: Tells how many items are being prepared.
        stuck_seconds: An action that runs longer without a new token counts as stuck.
        probe: Answers a simple item, or raises.
        on_broken: Ends the process.
        thread: The thread that the model was loaded in; see `device_thread`.
    """

    def __init__(  # noqa: PLR0913 - the parts of a worker, wired in __main__
        self,
        family: Family,
        schedule: Schedule,
        in_flight: InFlight,
        *,
        stuck_seconds: float,
        probe: Callable[[], None],
        on_broken: Callable[[], None],
        thread: ThreadPoolExecutor | None = None,
    ) -> None:
        self._family, self._slot_engine, self._schedule = family, family.slot_engine, schedule
        self._stuck_seconds, self._probe, self._on_broken = stuck_seconds, probe, on_broken
        self._thread = thread or device_thread()
        self._in_flight, self._changed = in_flight, in_flight.changed
        self._closing = False
        self._began: float | None = None
        self._halving = HalvingBatches(self._generate, self._error_of)
        self._in_slots: dict[int, ScheduledItem] = {}  # by the id of the prepared item
        metrics.SEQUENCES.set_function(lambda: len(self._in_slots))
        #: Items that the device works on now.
        self.running: Sequence[ScheduledItem] = ()

    def start(
        self,
        may_start: Callable[[ScheduledItem], bool],
        on_end: Callable[[ScheduledItem, ItemOutcome | None], None],
    ) -> None:
        """Start the thread. Both callbacks are called in it and must not block.

        Args:
            may_start: Called when an item's turn has come; False releases the item.
            on_end: Called with each item's answer or error, or with None for a released item.
        """
        self._may_start, self._on_end = may_start, on_end
        self._thread.submit(self._run)

    def put(self, prepared: ScheduledItem) -> None:
        """Queue an item."""
        with self._changed:
            self._schedule.put([prepared])
            self._in_flight.move([prepared.lease], ItemStep.ON_DEVICE)
            if not self._schedule.waits_for_more(self._in_flight.count(ItemStep.PREPARING)):
                self._changed.notify_all()

    @property
    def is_idle(self) -> bool:
        """True if nothing runs on the device or waits for it."""
        with self._changed:
            return not self._in_slots and not self._schedule and self._began is None

    def is_stuck(self) -> bool:
        """True if the running action has exceeded `stuck_seconds`."""
        began = self._began
        return began is not None and time.monotonic() - began > self._stuck_seconds

    def close(self) -> None:
        """Finish the items in slots and release those that wait."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.shutdown()

    # ---- the thread -------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while act := self._next():
                began = time.perf_counter()
                self._perform(act)
                self._began, self.running = None, ()
                metrics.BUSY_SECONDS.inc(time.perf_counter() - began)
        except BaseException:  # no item may be left unfinished
            log.critical("the device thread failed", exc_info=True)
            self._on_broken()

    def _next(self) -> Admit | Generate | DecodeStep | None:
        """Wait for the next action; None if the device is closing and has nothing left."""
        with self._changed:
            while True:
                for one in self._schedule.take_all() if self._closing else ():
                    self._on_end(one, None)
                act = self._schedule.next(
                    len(self._in_slots), self._in_flight.count(ItemStep.PREPARING)
                )
                if act is not None or self._closing:
                    return act
                self._changed.wait()

    def _perform(self, act: Admit | Generate | DecodeStep) -> None:
        if isinstance(act, DecodeStep):
            self._step()
            return
        due = []
        for one in act.items:
            if self._may_start(one):
                due.append(one)
            else:
                self._on_end(one, None)
        if not due:
            return
        if isinstance(act, Admit):
            self._admit(due)
            return
        due.sort(key=lambda one: one.item.tokens, reverse=True)
        for one, outcome in zip(due, self._halving.run(due), strict=True):
            self._on_end(one, outcome)

    def _begin(self, running: Sequence[ScheduledItem]) -> None:
        self._began, self.running = time.monotonic(), running
        failpoints.trigger("generating", [one.item for one in running])

    @staticmethod
    @contextlib.contextmanager
    def _timed(step: str, items: Sequence[ScheduledItem]) -> Iterator[None]:
        """Time a step of the device, which its items share, and trace all but the many decodes."""
        traceparents = [] if step == "decode" else [one.lease.traceparent for one in items]
        began = time.perf_counter()
        with work_span(step, traceparents, items=len(items)):
            yield
        seconds = time.perf_counter() - began
        STEP_SECONDS.labels(step).observe(seconds)
        for one in items:
            one.device_seconds += seconds / len(items)

    def _progressed(self) -> None:
        """Restart the watchdog: an answer that grows is not stuck."""
        self._began = time.monotonic()

    # ---- slots ------------------------------------------------------------------------

    def _admit(self, group: list[ScheduledItem]) -> None:
        assert self._slot_engine
        error: Exception | None = None
        try:
            # A step may still be running on the GPU, so an item in a slot may be what hangs.
            self._begin([*group, *self._in_slots.values()])
            with self._timed("prefill", group):
                finished = self._slot_engine.admit([one.item for one in group])
        except Exception as raised:  # one item must not fail its neighbours
            error = raised
        # Not in the block above: its traceback keeps the failed pass's tensors alive.
        if error is None:
            self._in_slots |= {id(one.item): one for one in group}
            self._answer(finished)
        elif isinstance(error, MemoryError):
            self._admit_fewer(group)
        elif len(group) == 1:
            log.warning("an item could not be admitted", exc_info=error, extra=ids_of(group))
            self._on_end(group[0], self._error_of(error))
        else:
            log.warning(
                "%d items could not be admitted", len(group), exc_info=error, extra=ids_of(group)
            )
            del error
            for one in group:
                self._admit([one])

    def _admit_fewer(self, group: list[ScheduledItem]) -> None:
        """Retry after running out of memory: fewer items at once, then a single item alone."""
        assert self._slot_engine
        cost = sum(one.prefill_cost for one in group)
        metrics.OUT_OF_MEMORY.inc()
        log.warning(
            "out of memory in the prefill of %d items, %d tokens",
            len(group),
            cost,
            extra=ids_of(group),
        )
        self._slot_engine.reduce_memory()
        if len(group) > 1:
            self._schedule.budget = min(self._schedule.budget, cost // 2)
        elif group[0].runs_alone and not self._in_slots:
            self._on_end(group[0], OutOfMemory("the item does not fit the device, even alone"))
            return
        else:
            group[0].runs_alone = True
        self._put_back(group)

    def _put_back(self, items: Sequence[ScheduledItem]) -> None:
        with self._changed:
            self._schedule.put_back(items)

    def _step(self) -> None:
        assert self._slot_engine
        held = list(self._in_slots.values())
        error: Exception | None = None
        try:
            self._begin(held)
            with self._timed("decode", held):
                finished = self._slot_engine.decode_step()
            self._answer(finished)
        except Exception as raised:
            error = raised
        if error is None:
            return
        log.warning(
            "a decode step of %d items failed", len(held), exc_info=error, extra=ids_of(held)
        )
        self._slot_engine.clear()
        self._in_slots.clear()
        is_full = isinstance(error, MemoryError)
        metrics.OUT_OF_MEMORY.inc(is_full)
        if is_full and not any(one.restarted for one in held):
            self._slot_engine.free_caches()  # and restart all of them
            for one in held:
                one.restarted = True
            self._put_back(held)
        elif len(held) > 1:  # run alone, the failing item shows itself
            for one in held:
                one.runs_alone = True
            self._put_back(held)
        elif is_full:  # slots have a fixed size; `generate` may have room for the item
            held[0].runs_alone, held[0].fits_slot = True, False
            self._put_back(held)
        else:
            self._on_end(held[0], self._error_of(error))

    def _answer(self, finished: Sequence[tuple[object, ItemOutcome]]) -> None:
        for item, outcome in finished:
            one = self._in_slots.pop(id(item))
            if isinstance(outcome, SlotFull):
                one.fits_slot = False
                self._put_back([one])
            else:
                self._on_end(one, outcome)

    # ---- generate ---------------------------------------------------------------------

    def _generate(self, batch: Sequence[ScheduledItem]) -> list[Answer]:
        self._begin(batch)
        first = replace(batch[0].item, on_step=self._progressed)
        with self._timed("generate", batch):
            answers = self._family.generate([first, *(one.item for one in batch[1:])])
        if len(answers) != len(batch):
            raise EngineError(f"{len(answers)} answers for {len(batch)} items")
        return list(answers)

    # ---- errors -----------------------------------------------------------------------

    def _error_of(self, error: Exception) -> IdefiqError:
        """Return the error of an item that failed alone; end the process if the device is broken.

        A GPU that has lost its context fails every item from then on. No item may be charged for
        that, so the process ends and its leases are rescued.
        """
        try:
            self._probe()
        except Exception:
            log.critical("the device failed even the probe", exc_info=True)
            self._on_broken()
        if isinstance(error, IdefiqError):
            return error
        return EngineError(f"generation failed: {type(error).__name__}")
