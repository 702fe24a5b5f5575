"""Batches of `generate` that run in halves when memory runs out, or when one item fails."""

import logging
from collections.abc import Callable, Sequence

from db.vocabulary.errors import IdefiqError, OutOfMemory
from workers.decoding.metrics import OUT_OF_MEMORY
from workers.engine.schedule import ScheduledItem
from workers.families.base import Answer

ItemOutcome = Answer | IdefiqError

log = logging.getLogger(__name__)


class HalvingBatches:
    """Runs a batch whole if it can, so that an item which cannot run fails alone.

    Args:
        generate: Answers a batch; raises MemoryError if it does not fit the device.
        error_of: Returns the error of an item that failed alone.
    """

    def __init__(
        self,
        generate: Callable[[Sequence[ScheduledItem]], list[Answer]],
        error_of: Callable[[Exception], IdefiqError],
    ) -> None:
        self._generate, self._error_of = generate, error_of
        #: Largest cost of a batch that is still tried: items × longest prompt.
        self._ceiling: int | None = None

    def run(self, batch: Sequence[ScheduledItem]) -> list[ItemOutcome]:
        """Return the outcome of each item, in order."""
        cost = len(batch) * max(one.item.tokens for one in batch)
        if len(batch) > 1 and self._ceiling is not None and cost > self._ceiling:
            return self._halves(batch)
        try:
            return list(self._generate(batch))
        except MemoryError:
            OUT_OF_MEMORY.inc()
            message = "out of memory with %d items, %d tokens"
            log.warning(message, len(batch), cost, extra=ids_of(batch))
            if len(batch) == 1:
                return [OutOfMemory("the item does not fit the device, even alone")]
            self._ceiling = cost - 1  # do not try such a batch again
        except Exception as error:  # one item must not fail its neighbours
            message = "a batch of %d items failed"
            log.warning(message, len(batch), exc_info=error, extra=ids_of(batch))
            if len(batch) == 1:
                return [self._error_of(error)]
        return self._halves(batch)

    def _halves(self, batch: Sequence[ScheduledItem]) -> list[ItemOutcome]:
        middle = len(batch) // 2
        return self.run(batch[:middle]) + self.run(batch[middle:])


def ids_of(items: Sequence[ScheduledItem]) -> dict[str, object]:
    """Ids of items, as `extra` of a log call; see db/logs.py."""
    return {"ids": {"item_ids": [one.lease.item_id for one in items]}}
