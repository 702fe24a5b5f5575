"""The device: one batch at a time, halved when it does not fit, watched while it runs."""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from db import failpoints
from db.errors import EngineError, IdefiqError, OutOfMemory
from workers.families.base import Answer, Family, Prepared

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
    """Runs a family's batches one after the other.

    Args:
        family: The loaded model.
        stuck_seconds: A batch that runs longer counts as stuck.
        probe: Answers a simple item, or raises.
        on_broken: Ends the process.
        thread: The one that the model was loaded in; see `device_thread`.
    """

    def __init__(
        self,
        family: Family,
        *,
        stuck_seconds: float,
        probe: Callable[[], None],
        on_broken: Callable[[], None],
        thread: ThreadPoolExecutor | None = None,
    ) -> None:
        self._family, self._probe, self._on_broken = family, probe, on_broken
        self._stuck_seconds = stuck_seconds
        self._thread = thread or device_thread()
        self._began: float | None = None
        self._ceiling: int | None = None
        #: What the device works on now.
        self.running: Sequence[Prepared] = ()

    def is_stuck(self) -> bool:
        """Whether the batch that runs has been at it for too long."""
        began = self._began
        return began is not None and time.monotonic() - began > self._stuck_seconds

    def run(self, batch: Sequence[Prepared], may_start: Callable[[], bool]) -> list[Outcome] | None:
        """Answer a batch when it is its turn.

        Args:
            batch: Items with the same kind and options.
            may_start: Asked when the turn has come; False leaves the batch alone.

        Returns:
            An answer or an error for each item, in order; None if it was not to start.
        """
        return self._thread.submit(self._run, batch, may_start).result()

    def close(self) -> None:
        """Let the batch that runs finish, and run no more."""
        self._thread.shutdown()

    def _run(
        self, batch: Sequence[Prepared], may_start: Callable[[], bool]
    ) -> list[Outcome] | None:
        if not may_start():
            return None
        try:
            return self._halving(batch)
        finally:
            self._began = None

    def _halving(self, batch: Sequence[Prepared]) -> list[Outcome]:
        cost = len(batch) * max(item.tokens for item in batch)
        if len(batch) > 1 and self._ceiling is not None and cost > self._ceiling:
            return self._halves(batch)
        self._began, self.running = time.monotonic(), batch
        try:
            failpoints.reach("generating", batch)
            answers = self._family.generate(batch)
            if len(answers) != len(batch):
                raise EngineError(f"{len(answers)} answers for {len(batch)} items")
            return list(answers)
        except MemoryError:
            log.warning("out of memory with %d items, %d tokens", len(batch), cost)
            if len(batch) == 1:
                return [OutOfMemory("the item does not fit the device's memory, even alone")]
            self._ceiling = cost - 1  # so as not to fail the same way again and again
        except Exception as error:  # a family's bug in one item must not fail its neighbours
            log.warning("batch of %d failed", len(batch), exc_info=error)
            if len(batch) == 1:
                self._check_device()
                if isinstance(error, IdefiqError):
                    return [error]
                return [EngineError(f"generation failed: {type(error).__name__}")]
        return self._halves(batch)

    def _halves(self, batch: Sequence[Prepared]) -> list[Outcome]:
        middle = len(batch) // 2
        return self._halving(batch[:middle]) + self._halving(batch[middle:])

    def _check_device(self) -> None:
        """Ask whether it is the item or the device that is at fault.

        A device whose context is lost fails everything from then on. Nothing of that may be
        charged to the items, so the process ends and its leases are rescued.
        """
        try:
            self._probe()
        except Exception:
            log.critical("the device answers not even the simplest item", exc_info=True)
            self._on_broken()
