"""The one Celery task, and the bootstep that ties a resident loop to its worker.

The loop starts with the worker's pool, not with its connection, so that a worker starts, works
and stops while Redis is away. A wake sets an event; what there is to do is in the database.
"""

import logging
from collections.abc import Callable
from typing import Any

from celery import Celery, bootsteps, signals

from workers.broker import WAKE
from workers.loop import ResidentLoop

log = logging.getLogger(__name__)


def serve(
    app: Celery, loop: ResidentLoop, *, queue: str, name: str, on_stopped: Callable[[], None]
) -> int:
    """Run a Celery worker around a resident loop until it is stopped.

    Args:
        queue: The one queue whose wakes it takes.
        name: The worker's name, for the logs.
        on_stopped: Called when the loop has stopped and nothing is leased any more.

    Returns:
        The exit status of the process.
    """

    @app.task(name=WAKE, ignore_result=True)  # type: ignore[untyped-decorator]
    def wake() -> None:
        loop.wake()

    class Resident(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
        """Starts the loop, and at the end waits for it."""

        requires = {"celery.worker.components:Pool"}  # noqa: RUF012 - Celery's own form

        def start(self, worker: Any) -> None:
            loop.start()
            log.info("worker %s ready", name)

        def stop(self, worker: Any) -> None:
            loop.stop()
            on_stopped()

        terminate = stop

    @signals.worker_shutting_down.connect(weak=False)  # type: ignore[untyped-decorator]
    def stop_claiming(**_: Any) -> None:
        # Runs inside the signal handler, where no lock may be waited for.
        loop.stopping.set()

    app.steps["worker"].add(Resident)
    worker = app.Worker(
        hostname=name,
        queues=[queue],
        pool="threads",
        concurrency=1,
        loglevel="INFO",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    worker.start()
    return int(worker.exitcode or 0)
