"""The device: one thing at a time, less of it when it does not fit, watched while it runs."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from db import failpoints
from db.errors import EngineError, IdefiqError, OutOfMemory
from workers.engine.schedule import Admit, Generate, Loaded, Schedule, Step
from workers.families.base import Answer, Family, SlotFull

Outcome = Answer | IdefiqError

log = logging.getLogger(__name__)


def device_thread() -> ThreadPoolExecutor:
    """The one thread that loads a model and runs it.

    Each thread that calls torch gets a team of its own on a CPU. As soon as there are more threads
    in teams than cores, all of them sleep at every barrier instead of spinning: a second team, as
    idle as it is, made a batch a quarter slower.
    """
    return ThreadPoolExecutor(1, thread_name_prefix="device")


class Device:
    """Does what the schedule says, one act after the other, in a thread of its own.

    Args:
        family: The loaded model.
        schedule: Of the items that wait.
        stuck_seconds: An act that runs longer without another token counts as stuck.
        probe: Answers a simple item, or raises.
        on_broken: Ends the process.
        thread: The one that the model was loaded in; see `device_thread`.
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
        self._family, self._slots, self._schedule = family, family.slots, schedule
        self._stuck_seconds, self._probe, self._on_broken = stuck_seconds, probe, on_broken
        self._thread = thread or device_thread()
        self._changed = threading.Condition()
        self._closing = False
        self._began: float | None = None
        #: Batches for `generate` above this cost do not fit: items times tokens of the longest.
        self._ceiling: int | None = None
        self._in_slots: dict[int, Loaded] = {}  # by the id of the prepared item
        #: What the device works on now.
        self.running: Sequence[Loaded] = ()

    def start(
        self,
        may_start: Callable[[Loaded], bool],
        on_end: Callable[[Loaded, Outcome | None], None],
    ) -> None:
        """Begin to do what is put. Both are called in the device's thread: they must not wait.

        Args:
            may_start: Asked when an item's turn has come; False gives it back.
            on_end: Takes each item's answer or error, or None for one that was given back.
        """
        self._may_start, self._on_end = may_start, on_end
        self._thread.submit(self._run)

    def expect(self, count: int) -> None:
        """Say that so many items are being loaded, or, below 0, that so many do not come."""
        with self._changed:
            self._schedule.coming += count
            self._changed.notify()

    def put(self, loaded: Loaded) -> None:
        """Let an item that was expected wait for its turn."""
        with self._changed:
            self._schedule.put([loaded])
            self._schedule.coming -= 1
            self._changed.notify()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is on the device, or waits for it."""
        with self._changed:
            return not self._in_slots and not self._schedule and self._began is None

    def is_stuck(self) -> bool:
        """Whether what runs has been at it for too long."""
        began = self._began
        return began is not None and time.monotonic() - began > self._stuck_seconds

    def close(self) -> None:
        """Finish what is begun, and give back what is not."""
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
        except BaseException:  # an item must never be left without an end
            log.critical("the device's own work failed", exc_info=True)
            self._on_broken()

    def _next(self) -> Admit | Generate | Step | None:
        """Wait for something to do; None when everything is done."""
        with self._changed:
            while True:
                for one in self._schedule.take_all() if self._closing else ():
                    self._on_end(one, None)
                act = self._schedule.next(len(self._in_slots))
                if act is not None or self._closing:
                    return act
                self._changed.wait()

    def _perform(self, act: Admit | Generate | Step) -> None:
        if isinstance(act, Step):
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

    def _begin(self, running: Sequence[Loaded]) -> None:
        self._began, self.running = time.monotonic(), running
        failpoints.reach("generating", [one.item for one in running])

    def _progressed(self) -> None:
        """A long answer is not stuck while it grows: the watchdog counts from its last token."""
        self._began = time.monotonic()

    # ---- slots ------------------------------------------------------------------------

    def _admit(self, group: list[Loaded]) -> None:
        assert self._slots
        error: Exception | None = None
        try:
            # A step may still be under way: whoever is in slots may be what hangs.
            self._begin([*group, *self._in_slots.values()])
            over = self._slots.admit([one.item for one in group])
        except Exception as raised:  # one item's fault must not be its neighbours'
            error = raised
        # Not in the block above, which holds on to what the failed pass had made.
        if error is None:
            self._in_slots |= {id(one.item): one for one in group}
            self._answer(over)
        elif isinstance(error, MemoryError):
            self._admit_less(group)
        elif len(group) == 1:
            log.warning("an item could not be begun", exc_info=error)
            self._on_end(group[0], self._fault(error))
        else:
            log.warning("%d items could not be begun", len(group), exc_info=error)
            del error
            for one in group:
                self._admit([one])

    def _admit_less(self, group: list[Loaded]) -> None:
        """The device is full: try less at once, and what is too large alone."""
        assert self._slots
        cost = sum(one.cost for one in group)
        log.warning("out of memory beginning %d items, %d tokens", len(group), cost)
        self._slots.shrink()
        if len(group) > 1:
            self._schedule.budget = min(self._schedule.budget, cost // 2)
        elif group[0].alone and not self._in_slots:
            self._on_end(group[0], OutOfMemory("the item does not fit the device, even alone"))
            return
        else:
            group[0].alone = True
        self._put_back(group)

    def _put_back(self, items: Sequence[Loaded]) -> None:
        with self._changed:
            self._schedule.put_back(items)

    def _step(self) -> None:
        assert self._slots
        held = list(self._in_slots.values())
        error: Exception | None = None
        try:
            self._begin(held)
            self._answer(self._slots.step())
        except Exception as raised:
            error = raised
        if error is None:
            return
        log.warning("a step of %d items failed", len(held), exc_info=error)
        self._slots.drop()
        self._in_slots.clear()
        is_full = isinstance(error, MemoryError)
        if is_full and not any(one.restarted for one in held):
            self._slots.release()  # and all from the beginning
            for one in held:
                one.restarted = True
            self._put_back(held)
        elif len(held) > 1:  # whose fault it is shows when each runs alone
            for one in held:
                one.alone = True
            self._put_back(held)
        elif is_full:  # slots have a size of their own: `generate` may find room for it
            held[0].alone, held[0].fits_slot = True, False
            self._put_back(held)
        else:
            self._on_end(held[0], self._fault(error))

    def _answer(self, over: Sequence[tuple[object, Outcome]]) -> None:
        for item, outcome in over:
            one = self._in_slots.pop(id(item))
            if isinstance(outcome, SlotFull):
                one.fits_slot = False
                self._put_back([one])
            else:
                self._on_end(one, outcome)

    # ---- generate ---------------------------------------------------------------------

    def _halving(self, batch: Sequence[Loaded]) -> list[Outcome]:
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
            self._ceiling = cost - 1  # so as not to fail the same way again and again
        except Exception as error:  # a family's bug in one item must not fail its neighbours
            log.warning("batch of %d failed", len(batch), exc_info=error)
            if len(batch) == 1:
                return [self._fault(error)]
        return self._halves(batch)

    def _halves(self, batch: Sequence[Loaded]) -> list[Outcome]:
        middle = len(batch) // 2
        return self._halving(batch[:middle]) + self._halving(batch[middle:])

    # ---- faults -----------------------------------------------------------------------

    def _fault(self, error: Exception) -> IdefiqError:
        """What is told of an item that failed alone, unless it is the device that is at fault.

        A device whose context is lost fails everything from then on. Nothing of that may be
        charged to the items, so the process ends and its leases are rescued.
        """
        try:
            self._probe()
        except Exception:
            log.critical("the device answers not even the simplest item", exc_info=True)
            self._on_broken()
        if isinstance(error, IdefiqError):
            return error
        return EngineError(f"generation failed: {type(error).__name__}")
