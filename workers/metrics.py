"""Prometheus metrics of the workers, and the port where a worker serves them."""

import functools
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from prometheus_client import Counter, Histogram, start_http_server

from db import tracing
from db.metrics import SECONDS
from db.queue.lease import Lease
from workers.settings import WorkerSettings

ITEMS_CLAIMED = Counter("idefiq_items_claimed", "Items claimed, by stage", ["stage"])
ITEMS_ENDED = Counter(
    "idefiq_items_ended",
    "Claims that have ended, by stage, model, kind and outcome: succeeded, failed, advanced to the"
    " engine, retried later, or released",
    ["stage", "model", "kind", "outcome"],
)
ITEM_ERRORS = Counter(
    "idefiq_item_errors", "Errors of items, retried ones included, by stage and code",
    ["stage", "code"],
)  # fmt: skip
LEASES_LOST = Counter(
    "idefiq_leases_lost", "Results of this worker that were dropped because their leases were lost"
)
ITEMS_RESCUED = Counter(
    "idefiq_items_rescued", "Items of dead workers that this worker has returned to the queue"
)
SESSIONS_LOST = Counter(
    "idefiq_sessions_lost",
    "Sessions of this worker that expired or were abandoned, with all leases",
)
CLAIM_WAIT_SECONDS = Histogram(
    "idefiq_claim_wait_seconds",
    "Time for which the oldest item of a claim was due, by stage",
    ["stage"],
    buckets=(0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0),
)
STEP_SECONDS = Histogram(
    "idefiq_step_seconds",
    "Duration of a step of the work: fetch and check (of an image), load (of an item: read and"
    " decode its images, make its prompt), encode, prefill, decode and generate (of a batch on the"
    " device), write (of many results)",
    ["step"],
    buckets=SECONDS,
)

log = logging.getLogger(__name__)


def step(name: str, leases: Sequence[Lease] = (), **ids: Any) -> AbstractContextManager[object]:
    """Time a step of the work, and trace it for the jobs of some leases; see tracing.work_span."""
    if not tracing.is_on():  # as usual, and for every item
        return _seconds_of(name).time()
    return _traced_step(name, [lease.traceparent for lease in leases], ids)


@contextmanager
def _traced_step(name: str, traceparents: list[str | None], ids: dict[str, Any]) -> Iterator[None]:
    with _seconds_of(name).time(), tracing.work_span(name, traceparents, **ids):
        yield


@functools.cache
def _seconds_of(name: str) -> Histogram:
    return STEP_SECONDS.labels(name)


def serve_metrics(settings: WorkerSettings) -> None:
    """Serve /metrics on the worker's own port, if it has one.

    Raises:
        OSError: The port is taken.
    """
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.metrics_host)
        log.info("metrics at %s:%d/metrics", settings.metrics_host, settings.metrics_port)
