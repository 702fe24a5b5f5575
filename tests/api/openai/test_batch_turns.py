"""Files of batches are checked a slice at a time, so that no owner waits for another's."""

import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from api.openai import batch_input, batches
from api.openai.batch_input import BatchInput, LineIn
from db import owners
from db.queue import sessions
from db.shares import FairTurns
from db.sql.database import Database
from tests import servers
from tests.api.openai.test_batches import create, line, upload
from tests.served import CARD, Serve

SLICE = 5


@pytest.fixture
def clients(serve: Serve, sqlite_url: str) -> Iterator[dict[str, openai.OpenAI]]:
    """The official client, once for each of two owners."""
    made: dict[str, openai.OpenAI] = {}
    database = Database(sqlite_url)
    with database.transaction() as transaction:
        sessions.offer(transaction, CARD)
    base = str(serve(sqlite_url, keys="always").base_url).rstrip("/")
    for name in ("ada", "ben"):
        with database.transaction() as transaction:
            key = owners.create_key(transaction, owners.get_or_create(transaction, name))
        made[name] = openai.OpenAI(base_url=f"{base}/v1", api_key=key, max_retries=0)
    database.dispose()
    yield made
    for client in made.values():
        client.close()


def test_a_line_of_one_owner_waits_for_a_slice_of_anothers_file(
    clients: dict[str, openai.OpenAI], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = FairTurns(1)
    monkeypatch.setattr(batches, "READING", turns)
    monkeypatch.setattr(batch_input, "SLICE_LINES", SLICE)
    large = upload(clients["ada"], [line(f"ada {n}") for n in range(40)])
    small = upload(clients["ben"], [line("ben")])
    checked: list[str] = []
    began = threading.Event()

    class Noted:
        """Notes whose line is read, and waits once until the other owner waits."""

        @staticmethod
        def model_validate_json(raw: bytes) -> LineIn:
            checked.append("ben" if b"ben" in raw else "ada")
            if len(checked) == SLICE + 2:
                began.set()
                servers.wait_until(lambda: turns.waiting() == 1)
            return LineIn.model_validate_json(raw)

    monkeypatch.setattr(batch_input, "LineIn", Noted)
    first = threading.Thread(target=create, args=(clients["ada"], large))
    first.start()
    began.wait()
    batch = create(clients["ben"], small)
    first.join()

    assert batch.status in ("validating", "in_progress")
    assert checked.index("ben") == 2 * SLICE
    assert len(checked) == 41


def test_an_owners_files_are_checked_one_after_the_other(
    clients: dict[str, openai.OpenAI], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside: list[int] = []
    most: list[int] = []
    read = BatchInput.read

    def counted(self: BatchInput, stream: Any) -> Iterator[None]:
        inside.append(1)
        most.append(len(inside))
        yield from read(self, stream)
        inside.pop()

    monkeypatch.setattr(BatchInput, "read", counted)
    files = [upload(clients["ada"], [line(f"{n}")]) for n in range(6)]
    threads = [threading.Thread(target=create, args=(clients["ada"], one)) for one in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most == [1] * 6
