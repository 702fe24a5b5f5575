"""The device: runs one action at a time, smaller when memory runs out, under a watchdog."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from db import failpoints
from db.errors import EngineError, IdefiqError, OutOfMemory
from workers.engine.schedule import Admit, DecodeStep, Generate, Schedule, ScheduledItem
from workers.families.base import Answer, Family, SlotFull

ItemOutcome = Answer | IdefiqError

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
        stuck_seconds: An action that runs longer without a new token counts as stuck.
        probe: Answers a simple item, or raises.
        on_broken: Ends the process.
        thread: The thread that the model was loaded in; see `device_thread`.
    """

    def __init__(
        self,
        family: Family,
        schedule: Schedule,
        *,
        stuck_seconds: float,
        probe: Callable[[], None],
        on_broken: Callable[[], None],
        thread: ThreadPoolExecutor | None = None,
    ) -> None:
        self._family, self._slot_engine, self._schedule = family, family.slot_engine, schedule
        self._stuck_seconds, self._probe, self._on_broken = stuck_seconds, probe, on_broken
        self._thread = thread or device_thread()
        self._changed = threading.Condition()
        self._closing = False
        self._began: float | None = None
        #: Largest cost of a `generate` batch that is still tried: items × longest prompt.
        self._ceiling: int | None = None
        self._in_slots: dict[int, ScheduledItem] = {}  # by the id of the prepared item
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

    def expect(self, count: int) -> None:
        """Announce `count` items that are being prepared; a negative count withdraws them."""
        with self._changed:
            self._schedule.expected += count
            self._changed.notify()

    def put(self, loaded: ScheduledItem) -> None:
        """Queue an item that was announced with `expect`."""
        with self._changed:
            self._schedule.put([loaded])
            self._schedule.expected -= 1
            self._changed.notify()

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
            self._changed.notify()
        self._thread.shutdown()

    # ---- the thread -------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while act := self._next():
                self._perform(act)
                self._began, self.running = None, ()
        except BaseException:  # no item may be left unfinished
            log.critical("the device thread failed", exc_info=True)
            self._on_broken()

    def _next(self) -> Admit | Generate | DecodeStep | None:
        """Wait for the next action; None if the device is closing and has nothing left."""
        with self._changed:
            while True:
                for one in self._schedule.take_all() if self._closing else ():
                    self._on_end(one, None)
                act = self._schedule.next(len(self._in_slots))
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
        for one, outcome in zip(due, self._halving(due), strict=True):
            self._on_end(one, outcome)

    def _begin(self, running: Sequence[ScheduledItem]) -> None:
        self._began, self.running = time.monotonic(), running
        failpoints.trigger("generating", [one.item for one in running])

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
            log.warning("an item could not be admitted", exc_info=error)
            self._on_end(group[0], self._error_of(error))
        else:
            log.warning("%d items could not be admitted", len(group), exc_info=error)
            del error
            for one in group:
                self._admit([one])

    def _admit_fewer(self, group: list[ScheduledItem]) -> None:
        """Retry after running out of memory: fewer items at once, then a single item alone."""
        assert self._slot_engine
        cost = sum(one.prefill_cost for one in group)
        log.warning("out of memory in the prefill of %d items, %d tokens", len(group), cost)
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
            self._answer(self._slot_engine.decode_step())
        except Exception as raised:
            error = raised
        if error is None:
            return
        log.warning("a decode step of %d items failed", len(held), exc_info=error)
        self._slot_engine.clear()
        self._in_slots.clear()
        is_full = isinstance(error, MemoryError)
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

    def _halving(self, batch: Sequence[ScheduledItem]) -> list[ItemOutcome]:
        cost = len(batch) * max(one.item.tokens for one in batch)
        if len(batch) > 1 and self._ceiling is not None and cost > self._ceiling:
            return self._halves(batch)
        try:
            self._begin(batch)
            first = replace(batch[0].item, on_step=self._progressed)
            answers = self._family.generate([first, *(one.item for one in batch[1:])])
            if len(answers) != len(batch):
                raise EngineError(f"{len(answers)} answers for {len(batch)} items")
            return list(answers)
        except MemoryError:
            log.warning("out of memory with %d items, %d tokens", len(batch), cost)
            if len(batch) == 1:
                return [OutOfMemory("the item does not fit the device, even alone")]
            self._ceiling = cost - 1  # do not try such a batch again
        except Exception as error:  # one item must not fail its neighbours
            log.warning("a batch of %d items failed", len(batch), exc_info=error)
            if len(batch) == 1:
                return [self._error_of(error)]
        return self._halves(batch)

    def _halves(self, batch: Sequence[ScheduledItem]) -> list[ItemOutcome]:
        middle = len(batch) // 2
        return self._halving(batch[:middle]) + self._halving(batch[middle:])

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
