"""The queue's figures as metrics: there without an engine, and without whole tables being slow."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import Metric

from db.sql.database import Database, Transaction
from db.vocabulary.errors import StorageError
from tests import servers
from tests.db import builders
from workers.upkeep import figures
from workers.upkeep.figures import QueueMetrics


@pytest.fixture(autouse=True)
def ended(database: Database) -> Iterator[None]:
    """No count goes on after the test, with a connection of its database."""
    yield
    servers.wait_until(lambda: "figures" not in {one.name for one in threading.enumerate()})


def values(metrics: QueueMetrics) -> dict[str, float]:
    found: list[Metric] = list(metrics.collect())
    return {sample.name: sample.value for family in found for sample in family.samples}


def test_the_queue_has_figures_without_an_engine(database: Database) -> None:
    builders.job(database, 3)
    metrics = QueueMetrics(database)

    assert values(metrics)["idefiq_items"] in (0, 3)
    assert values(metrics)["idefiq_queue_readable"] == 1
    servers.wait_until(lambda: values(metrics).get("idefiq_database_bytes", 0) > 0)


def test_while_whole_tables_are_counted_the_queue_has_its_figures(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def slow(_: Transaction) -> Any:
        go_on.wait(servers.PATIENCE_SECONDS)
        raise StorageError("it took too long")

    monkeypatch.setattr(figures, "storage_figures", slow)
    metrics = QueueMetrics(database)

    found = values(metrics)
    go_on.set()

    assert found["idefiq_queue_readable"] == 1
    assert "idefiq_webhook_deliveries" in found
    assert "idefiq_stored_bytes" not in found


def test_a_database_that_is_away_is_said_and_nothing_else(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: Transaction) -> Any:
        raise StorageError("the database is unavailable")

    monkeypatch.setattr(figures, "queue_figures", away)

    assert values(QueueMetrics(database)) == {"idefiq_queue_readable": 0}


def test_figures_that_cannot_be_read_are_not_asked_for_at_every_look(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def fails(transaction: Transaction) -> Any:
        asked.append(transaction)
        raise StorageError("it took too long")

    monkeypatch.setattr(figures, "storage_figures", fails)
    metrics = QueueMetrics(database)

    for _ in range(3):
        values(metrics)
        servers.wait_until(lambda: "figures" not in {one.name for one in threading.enumerate()})

    assert len(asked) == 1


def test_a_database_that_hangs_is_said_before_prometheus_gives_up(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def hangs(_: Transaction) -> Any:
        go_on.wait(servers.PATIENCE_SECONDS)
        raise StorageError("it took too long")

    monkeypatch.setattr(figures, "queue_figures", hangs)
    monkeypatch.setattr(figures, "FIGURES_PATIENCE_SECONDS", 0.1)
    metrics = QueueMetrics(database)

    found = [values(metrics), values(metrics)]
    go_on.set()

    assert found == [{"idefiq_queue_readable": 0}] * 2
