"""The device: one batch at a time, halved when it does not fit, watched while it runs."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from db.errors import EngineError, IdefiqError, OutOfMemory
from workers.families.base import Answer, Family, Prepared

Outcome = Answer | IdefiqError

log = logging.getLogger(__name__)


class Device:
    """Runs a family's batches one after the other.

    Args:
        family: The loaded model.
        stuck_seconds: A batch that runs longer counts as stuck.
    """

    def __init__(self, family: Family, *, stuck_seconds: float) -> None:
        self._family = family
        self._stuck_seconds = stuck_seconds
        self._turn = threading.Lock()
        self._began: float | None = None

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
        with self._turn:
            if not may_start():
                return None
            self._began = time.monotonic()
            try:
                return self._halving(batch)
            finally:
                self._began = None

    def _halving(self, batch: Sequence[Prepared]) -> list[Outcome]:
        try:
            answers = self._family.generate(batch)
            if len(answers) != len(batch):
                raise EngineError(f"{len(answers)} answers for {len(batch)} items")
            return list(answers)
        except MemoryError:
            log.warning("out of memory with %d items", len(batch))
            if len(batch) == 1:
                return [OutOfMemory("the item does not fit the device's memory, even alone")]
        except IdefiqError as error:
            log.warning("batch of %d failed: %s", len(batch), error)
            if len(batch) == 1:
                return [error]
        except Exception as error:  # a family's bug in one item must not fail its neighbours
            log.exception("batch of %d failed unexpectedly", len(batch))
            if len(batch) == 1:
                return [EngineError(f"generation failed: {type(error).__name__}")]
        middle = len(batch) // 2
        return self._halving(batch[:middle]) + self._halving(batch[middle:])
