"""Files of batches are checked a slice at a time, so that no owner waits for another's."""

from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from db import owners
from db.openai import batch_input
from db.openai.batch_input import LineIn
from db.queue import sessions
from db.sql.database import Database
from tests.api.openai.test_batches import create, line, upload
from tests.played import Played
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


class Checked:
    """Notes whose line is checked, and does something before a line."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.order: list[str] = []
        self.before: dict[int, Callable[[], object]] = {}
        monkeypatch.setattr(batch_input, "LineIn", self)
        monkeypatch.setattr(batch_input, "SLICE_LINES", SLICE)

    def model_validate_json(self, raw: bytes) -> LineIn:
        if act := self.before.pop(len(self.order), None):
            act()
        read = LineIn.model_validate_json(raw)
        self.order.append(read.custom_id.split()[0])
        return read


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> Checked:
    return Checked(monkeypatch)


def test_a_line_of_one_owner_waits_for_a_slice_of_anothers_file(
    clients: dict[str, openai.OpenAI], sqlite_url: str, tmp_path: Path, checked: Checked
) -> None:
    small = upload(clients["ben"], [line("ben")])
    create(clients["ada"], upload(clients["ada"], [line(f"ada {n}") for n in range(40)]))
    checked.before[SLICE + 2] = lambda: create(clients["ben"], small)
    database = Database(sqlite_url)

    Played(database, tmp_path).upkeep.run_once()
    database.dispose()

    assert checked.order.index("ben") == 2 * SLICE
    assert len(checked.order) == 41


def test_an_owners_files_are_checked_one_after_the_other(
    clients: dict[str, openai.OpenAI], sqlite_url: str, tmp_path: Path, checked: Checked
) -> None:
    for name in ("first", "second", "third"):
        lines = [line(f"{name} {n}") for n in range(2 * SLICE + 1)]
        create(clients["ada"], upload(clients["ada"], lines))
    database = Database(sqlite_url)

    Played(database, tmp_path).upkeep.run_once()
    database.dispose()

    count = 2 * SLICE + 1
    assert checked.order == ["first"] * count + ["second"] * count + ["third"] * count


def test_a_check_that_is_broken_off_begins_anew_and_makes_one_job(
    clients: dict[str, openai.OpenAI], sqlite_url: str, tmp_path: Path, checked: Checked
) -> None:
    batch = create(clients["ada"], upload(clients["ada"], [line(f"ada {n}") for n in range(7)]))

    def die() -> None:
        raise RuntimeError("the process ends here")

    checked.before[SLICE + 1] = die
    database = Database(sqlite_url)
    Played(database, tmp_path).upkeep.run_once()
    Played(database, tmp_path).upkeep.run_once()
    database.dispose()

    ended = clients["ada"].batches.retrieve(batch.id)
    assert (ended.status, len(checked.order)) == ("in_progress", SLICE + 1 + 7)
    assert ended.request_counts
    assert ended.request_counts.total == 7
