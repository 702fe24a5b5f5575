"""The queue's figures as Prometheus metrics, so that they are there without a single engine."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from db.queue.figures import QueueFigures, StorageFigures, queue_figures, storage_figures
from db.sql.database import Database, Transaction
from db.vocabulary.errors import StorageError

#: The database is not asked again sooner, however often metrics are read.
QUEUE_SECONDS, STORAGE_SECONDS = 5.0, 300.0
#: A database that takes longer for the queue's figures counts as unavailable. Prometheus, which
#: waits for the answer, gives up after ten seconds and would then say that upkeep is away.
FIGURES_PATIENCE_SECONDS = 5.0

T = TypeVar("T")

log = logging.getLogger(__name__)


class _Cached(Generic[T]):
    """What a query has found, for some seconds. Thread-safe.

    The query runs in a thread of its own: a database that hangs must not hang what asks.

    Args:
        seconds: The database is not asked again sooner.
        patience: Seconds to wait for the query; none if an older result is good enough.
    """

    def __init__(
        self,
        database: Database,
        query: Callable[[Transaction], T],
        seconds: float,
        *,
        patience: float = 0.0,
    ) -> None:
        self._database, self._query = database, query
        self._seconds, self._patience = seconds, patience
        self._asking = threading.Lock()
        self._found: T | None = None
        self._until = self._ask_again_at = 0.0

    def get(self) -> T | None:
        """Return the figures; None if they are not known yet.

        Raises:
            StorageError: The database did not answer within the patience.
        """
        if time.monotonic() > self._ask_again_at and self._asking.acquire(blocking=False):
            threading.Thread(target=self._ask, name="figures", daemon=True).start()
        if self._patience and self._asking.acquire(timeout=self._patience):
            self._asking.release()
        if self._patience and time.monotonic() > self._until:
            raise StorageError("the database has not answered")
        return self._found

    def _ask(self) -> None:
        try:
            with self._database.snapshot() as transaction:
                self._found = self._query(transaction)
            self._until = time.monotonic() + self._seconds
        except StorageError as error:
            log.warning("no figures from the database: %s", error)
        finally:
            # After an error too: a query that takes too long must not run back to back.
            self._ask_again_at = time.monotonic() + self._seconds
            self._asking.release()


class QueueMetrics(Collector):
    """Collects the queue's figures whenever metrics are read.

    While the database is unavailable there are none, and `idefiq_queue_readable` is 0.
    """

    def __init__(self, database: Database) -> None:
        self._queue = _Cached(
            database, queue_figures, QUEUE_SECONDS, patience=FIGURES_PATIENCE_SECONDS
        )
        self._storage = _Cached(database, storage_figures, STORAGE_SECONDS)

    def describe(self) -> Iterator[Metric]:
        """Describe the metrics, without a look into the database."""
        return described()

    def collect(self) -> Iterator[Metric]:
        """Read the figures."""
        try:
            queue, storage = self._queue.get(), self._storage.get()
        except StorageError as error:
            log.warning("no figures of the queue: %s", error)
            yield _readable(False)
            return
        yield _readable(True)
        if queue:
            yield from _of_queue(queue)
        if storage:
            yield from _of_storage(storage)


def described() -> Iterator[Metric]:
    """Yield every metric of the queue without samples of any queue."""
    yield _readable(True)
    yield from _of_queue(QueueFigures({}, {}, {}, {}, {}, (0, 0.0)))
    yield from _of_storage(StorageFigures(0, 0, 0))


def _readable(is_readable: bool) -> Metric:
    return GaugeMetricFamily(
        "idefiq_queue_readable",
        "1 if the figures of the queue could be read from the database",
        value=int(is_readable),
    )


def _of_queue(queue: QueueFigures) -> list[Metric]:
    gauge = GaugeMetricFamily
    items = gauge(
        "idefiq_items",
        "Unfinished items by state (queued, running, paused), model, and the kind of their job",
        labels=["state", "model", "kind"],
    )
    for key, count in queue.items.items():
        items.add_metric(key, count)
    jobs = gauge("idefiq_jobs", "Unfinished jobs by state", labels=["state"])
    for state, count in queue.jobs.items():
        jobs.add_metric([state], count)
    oldest = gauge(
        "idefiq_oldest_due_item_age_seconds",
        "Time for which the oldest due item has waited for a worker",
        labels=["stage", "model"],
    )
    for place, age in queue.oldest_due.items():
        oldest.add_metric(place, age)
    workers = gauge("idefiq_workers", "Workers that are alive", labels=["stage", "model"])
    for place, count in queue.workers.items():
        workers.add_metric(place, count)
    owners = gauge(
        "idefiq_owner_unfinished_items",
        "Unfinished items of the ten owners who have the most",
        labels=["owner"],
    )
    for owner, count in queue.top_owners.items():
        owners.add_metric([owner], count)
    waiting, age = queue.deliveries
    return [
        items,
        jobs,
        oldest,
        workers,
        owners,
        gauge("idefiq_webhook_deliveries", "Webhook deliveries that wait", value=waiting),
        gauge(
            "idefiq_oldest_due_delivery_age_seconds",
            "Time for which the oldest due webhook delivery has waited",
            value=age,
        ),
    ]


def _of_storage(storage: StorageFigures) -> list[Metric]:
    gauge = GaugeMetricFamily
    return [
        gauge("idefiq_reviews", "Drafts without a decision", value=storage.reviews),
        gauge("idefiq_stored_bytes", "Bytes of images and files", value=storage.stored_bytes),
        gauge("idefiq_database_bytes", "Size of the database", value=storage.database_bytes),
    ]
