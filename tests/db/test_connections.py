"""Connections of the pools as metrics."""

from prometheus_client import REGISTRY

from db.sql.database import Database
from db.vocabulary.errors import StorageError


def count(state: str) -> float:
    return REGISTRY.get_sample_value("idefiq_database_connections", {"state": state}) or 0.0


def test_connections_are_counted_while_they_are_in_use(database: Database) -> None:
    before = count("in_use")
    with database.transaction():
        during = count("in_use")

    assert (during - before, count("in_use") - before) == (1, 0)
    assert count("open") >= 1


def test_a_database_that_is_away_leaves_no_trace_in_the_count() -> None:
    away, before = Database("postgresql+psycopg://nobody@127.0.0.1:1/none"), count("in_use")
    for _ in range(5):
        try:
            with away.transaction():
                raise AssertionError("there is no database")
        except StorageError:
            pass

    assert count("in_use") == before
    away.dispose()
