"""The record of the API that clients talk to, and the workers that the test plays on it."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from db.sql.database import Database
from tests.played import Played


@pytest.fixture
def record(http_sqlite: httpx2.Client, sqlite_url: str) -> Iterator[Database]:
    database = Database(sqlite_url)
    yield database
    database.dispose()


@pytest.fixture
def played(record: Database, tmp_path: Path) -> Played:
    return Played(record, tmp_path)
