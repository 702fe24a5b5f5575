"""Server-sent events: nothing missed, nothing twice, and cheap for those who wait."""

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import httpx2
import pytest
from sqlalchemy import Engine, event, text

from api import authentication, watch
from api import events as event_streams
from db.owners import LOCAL_OWNER
from db.sql.database import Database
from tests import servers
from tests.api.test_keys import key
from tests.db import builders
from tests.served import Serve
from tests.servers import PATIENCE_SECONDS
from workers.notices import Notices

Event = tuple[str, str, dict[str, Any]]


def events(lines: Iterator[str]) -> Iterator[Event]:
    """Name, id and data of each event."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield fields["event"], fields.get("id", ""), json.loads(fields["data"])
            fields = {}


def job_of_local(record: Database, items: int) -> str:
    return builders.job(record, items, owner_id=builders.owner(record, LOCAL_OWNER))


def answer(record: Database, session: str, count: int) -> None:
    builders.complete(record, builders.claim(record, session, limit=count))


def test_counts_items_and_the_end_come_as_they_happen(
    http: httpx2.Client, offered: Database
) -> None:
    job_id, session = job_of_local(offered, 3), builders.session(offered)

    with http.stream("GET", f"/v1/jobs/{job_id}/events") as response:
        found = events(response.iter_lines())
        assert next(found)[2]["counts"]["queued"] == 3
        answer(offered, session, 2)
        seen = [next(found) for _ in range(3)]
        answer(offered, session, 1)
        seen += list(found)

    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-accel-buffering"] == "no"
    assert [name for name, _, _ in seen] == ["counts", "item", "item", "counts", "item", "end"]
    assert [number for name, number, _ in seen if name == "item"] == ["1", "2", "3"]
    assert {data["index"] for name, _, data in seen if name == "item"} == {0, 1, 2}
    assert (seen[-1][1], seen[-1][2]["state"]) == ("end", "succeeded")


def test_no_character_of_an_answer_ends_a_line(http: httpx2.Client, offered: Database) -> None:
    job_id, text = job_of_local(offered, 1), "one\u2028two\u0085three\u2029\r\nfour"
    builders.complete(offered, builders.claim(offered, builders.session(offered)), text)

    with http.stream("GET", f"/v1/jobs/{job_id}/events") as response:
        found = list(events(response.iter_lines()))
    lines = http.get(f"/v1/jobs/{job_id}/results.jsonl").text.splitlines()

    assert [data["answer"]["text"] for name, _, data in found if name == "item"] == [text]
    assert [json.loads(line)["answer"]["text"] for line in lines] == [text]


@pytest.mark.parametrize("last", [0, 1, 3, 5])
def test_who_comes_back_misses_nothing_and_gets_nothing_twice(
    http: httpx2.Client, offered: Database, last: int
) -> None:
    job_id = job_of_local(offered, 5)
    answer(offered, builders.session(offered), 5)

    headers = {"Last-Event-ID": str(last)} if last else {}
    response = http.get(f"/v1/jobs/{job_id}/events", headers=headers)

    found = list(events(iter(response.text.splitlines())))
    numbers = [number for name, number, _ in found if name == "item"]
    assert numbers == [str(n) for n in range(last + 1, 6)]
    assert found[-1][0] == "end"


def test_pages_join_without_a_seam(
    http: httpx2.Client, offered: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "WATCHED_RESULTS", 2)
    job_id = job_of_local(offered, 5)
    answer(offered, builders.session(offered), 5)

    response = http.get(f"/v1/jobs/{job_id}/events")

    found = [seen[1] for seen in events(iter(response.text.splitlines())) if seen[0] == "item"]
    assert found == ["1", "2", "3", "4", "5"]


def test_a_client_that_has_seen_the_end_is_told_not_to_reconnect(
    http: httpx2.Client, offered: Database
) -> None:
    job_id = job_of_local(offered, 1)

    response = http.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": "end"})

    assert (response.status_code, response.content) == (204, b"")


def test_an_id_that_is_none_of_ours_is_refused(http: httpx2.Client, offered: Database) -> None:
    job_id = job_of_local(offered, 1)

    response = http.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": "x"})

    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert http.get("/v1/jobs/job_none/events").status_code == 404


def test_a_notice_brings_news_at_once(
    serve: Serve,
    offered: Database,
    redis_server: servers.RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "POLL_SECONDS", 3_600.0)
    http = serve(offered.url, redis_url=redis_server.url)
    job_id, session = job_of_local(offered, 1), builders.session(offered)
    notices = Notices(redis_server.url)

    with http.stream("GET", f"/v1/jobs/{job_id}/events") as response:
        found = events(response.iter_lines())
        next(found)
        answer(offered, session, 1)
        names: list[str] = []
        reader = threading.Thread(target=lambda: names.extend(name for name, _, _ in found))
        reader.start()

        def told() -> bool:
            notices.changed(job_id)  # again and again: the API may not be listening yet
            return not reader.is_alive()

        servers.wait_until(told, what="the end of the events")

    assert names == ["counts", "item", "end"]


def test_redis_may_go_and_come_back(
    serve: Serve,
    offered: Database,
    redis_server: servers.RedisServer,
) -> None:
    http = serve(offered.url, redis_url=redis_server.url)
    job_id, session = job_of_local(offered, 2), builders.session(offered)

    with http.stream("GET", f"/v1/jobs/{job_id}/events") as response:
        found = events(response.iter_lines())
        next(found)
        redis_server.kill()
        answer(offered, session, 1)
        without = [next(found)[0] for _ in range(2)]
        redis_server.start()
        answer(offered, session, 1)
        after = [name for name, _, _ in found]

    assert (without, after) == (["counts", "item"], ["counts", "item", "end"])


class Crowd:
    """Clients that all wait for the same events."""

    def __init__(self, url: str, count: int) -> None:
        self._url, self._count = url, count
        self._begun = 0
        self.all_wait = anyio.Event()
        self.seen: list[list[str]] = []

    async def wait(self, client: httpx2.AsyncClient) -> None:
        """Read the ids of all events; `all_wait` is set when everybody has seen the first."""
        numbers: list[str] = []
        async with client.stream("GET", self._url) as response:
            async for line in response.aiter_lines():
                if not numbers and line == "event: counts":
                    self._begun += 1
                    if self._begun == self._count:
                        self.all_wait.set()
                if line.startswith("id: "):
                    numbers.append(line.removeprefix("id: "))
        self.seen.append(numbers)


@contextlib.contextmanager
def statements() -> Iterator[list[str]]:
    """Every SQL statement of this process, the API's and the test's own."""
    asked: list[str] = []

    def note(_1: object, _2: object, statement: str, *_: object) -> None:
        asked.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def test_five_hundred_who_wait_cost_neither_threads_nor_queries_each(
    http_sqlite: httpx2.Client, sqlite_url: str
) -> None:
    record = Database(sqlite_url)
    job_id, session = job_of_local(record, 40), builders.session(record)
    crowd = Crowd(str(http_sqlite.base_url.join(f"/v1/jobs/{job_id}/events")), 500)
    limits = httpx2.Limits(max_connections=600)

    async def run(asked: list[str]) -> None:
        async with (
            httpx2.AsyncClient(limits=limits, timeout=PATIENCE_SECONDS) as client,
            anyio.create_task_group() as group,
        ):
            for _ in range(500):
                group.start_soon(crowd.wait, client)
            await crowd.all_wait.wait()
            assert (await client.get(str(http_sqlite.base_url.join("/v1/jobs")))).status_code == 200
            asked.clear()
            for _ in range(4):
                await anyio.to_thread.run_sync(answer, record, session, 10)

    with statements() as asked:
        anyio.run(run, asked)
    record.dispose()

    ids = (*(str(number) for number in range(1, 41)), "end")
    assert len(crowd.seen) == 500
    assert {tuple(numbers) for numbers in crowd.seen} == {ids}
    assert len(asked) < 250


def test_a_stream_ends_soon_after_its_key_was_revoked(
    serve: Serve, offered: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "RECHECK_SECONDS", 0.0)
    monkeypatch.setattr(event_streams, "PING_SECONDS", 0.05)
    http = serve(offered.url, keys="always")
    headers, job_id = key(offered, "read", owner=LOCAL_OWNER), job_of_local(offered, 3)
    with http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as response:
        lines = response.iter_lines()
        assert next(lines) == "event: counts"

        with offered.transaction() as transaction:
            transaction.execute(text("UPDATE api_keys SET revoked_at = created_at"))

        assert not [line for line in lines if line.startswith("event: end")]
    assert http.get(f"/v1/jobs/{job_id}", headers=headers).status_code == 401
