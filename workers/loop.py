"""The resident loop of a worker: work until there is none, then wait for a wake or the poll.

    wake ─┐
          ├─▶ run_once() ──True──▶ run_once() …     True: there may be more
    poll ─┘        └──────False──▶ wait

A worker has several lanes, so that one loads while another generates. Work is found in the
database, never in a message, so the loop starts, works and stops without Redis.
"""

import logging
import random
import threading
from collections.abc import Callable

from db.vocabulary.errors import StorageError

#: Pause after a failure, so that a broken database is not asked in a hot loop.
FAILURE_PAUSE_SECONDS = 1.0

log = logging.getLogger(__name__)


class ResidentLoop:
    """Calls `run_once` in `lanes` threads until it is stopped.

    Args:
        run_once: Does some work, and returns True if there may be more. Must return soon after
            `stopping` is set.
        stopping: Set by `stop`; an event of its own if None.
        wakes: Set to let waiting lanes run now, by `wake` or whoever shares it; the same.
        lanes: Threads, >= 1.
        poll_seconds: Longest wait between two looks of a lane.
    """

    def __init__(
        self,
        run_once: Callable[[], bool],
        *,
        lanes: int,
        poll_seconds: float,
        name: str,
        stopping: threading.Event | None = None,
        wakes: threading.Event | None = None,
    ) -> None:
        self._run_once = run_once
        self._poll_seconds = poll_seconds
        self._event = wakes or threading.Event()
        self.stopping = stopping or threading.Event()
        self._threads = [
            threading.Thread(target=self._lane, name=f"{name}-{lane}") for lane in range(lanes)
        ]

    def start(self) -> None:
        """Start the lanes."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Let waiting lanes run now."""
        self._event.set()

    def stop(self) -> None:
        """Let no lane run again, and wait until all have returned."""
        self.stopping.set()
        self._event.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _lane(self) -> None:
        while not self.stopping.is_set():
            if self._run_once_guarded():
                self._event.set()  # more than one lane can take: let the others look too
                continue
            # Spread, so that the lanes of many workers do not all ask at once.
            self._event.wait(self._poll_seconds * random.uniform(0.7, 1.0))  # noqa: S311
            self._event.clear()

    def _run_once_guarded(self) -> bool:
        try:
            return self._run_once()
        except StorageError as error:
            log.warning("%s; retrying", error)
        except Exception:  # one of the two outermost loops: a lane must not end
            log.exception("unexpected error in a lane; retrying")
        self.stopping.wait(FAILURE_PAUSE_SECONDS)
        return False
