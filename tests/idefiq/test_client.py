"""Both clients, one contract: against a real API whose workers are played by the test."""

import contextlib
import functools
import inspect
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx2
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from opentelemetry import propagate  # noqa: F401 - what such a program has loaded
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from db import owners
from db.blobs.opening import open_store
from db.blobs.store import image_key
from db.queue import jobs
from db.sql.database import Database
from db.vocabulary.errors import FetchFailed, ImageUnreadable
from idefiq import ApiError, AsyncClient, Client, IdefiqError, WaitTimeout, protocol
from tests import pictures, servers
from tests.db.test_blobs import s3_settings
from tests.played import Played
from tests.served import Serve
from tests.servers import PATIENCE_SECONDS

IMAGE = "blob:" + "0" * 64


class Blocking:
    """An AsyncClient that is called like a Client."""

    def __init__(self, portal: BlockingPortal, *arguments: Any) -> None:
        self._portal = portal
        self._client = portal.call(_made, *arguments)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            bound = functools.partial(method, *arguments, **options)
            if inspect.isasyncgenfunction(method):
                return self._portal.call(_listed, bound)
            return self._portal.call(bound)

        return call


async def _made(*arguments: Any) -> AsyncClient:
    return AsyncClient(*arguments)


async def _listed(generator: Callable[[], Any]) -> Any:
    return iter([each async for each in generator()])


Connect = Callable[..., Client]


@pytest.fixture(params=["sync", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes a client, of either kind."""
    with contextlib.ExitStack() as stack:
        if request.param == "sync":
            yield lambda *arguments: stack.enter_context(Client(*arguments))
            return
        portal = stack.enter_context(start_blocking_portal())

        def connect(*arguments: Any) -> Any:
            made = Blocking(portal, *arguments)
            stack.callback(made.close)
            return made

        yield connect


@pytest.fixture
def client(http_sqlite: httpx2.Client, connect: Connect) -> Client:
    return connect(str(http_sqlite.base_url))


def images(folder: Path, count: int) -> list[Path]:
    paths = []
    for number in range(count):
        path = folder / f"{number}.png"
        path.write_bytes(pictures.plain(size=(4, 4 + number)))
        paths.append(path)
    return paths


class TestUploading:
    def test_only_bytes_that_the_service_lacks_are_sent(
        self, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = images(tmp_path, 2)
        sent: list[list[str]] = []
        original = protocol.upload_group

        def upload_group(uploads: Any) -> Any:
            sent.append([upload.path.name for upload in uploads])
            return original(uploads)

        monkeypatch.setattr(protocol, "upload_group", upload_group)

        before = client.upload([first])
        again = client.upload([second, first, second])

        assert again == [again[0], before[0], again[0]]
        assert sent == [["0.png"], ["1.png"]]

    def test_they_go_straight_to_a_store_that_takes_them(
        self, connect: Connect, serve: Serve, sqlite_url: str, s3_endpoint: str, tmp_path: Path
    ) -> None:
        settings = s3_settings(s3_endpoint, "straight")
        open_store(settings).prepare()
        http = serve(sqlite_url, store=settings, max_upload_request_bytes=1)
        paths = images(tmp_path, 20)

        references = connect(str(http.base_url)).upload(paths)

        keys = [image_key(1, reference.removeprefix("blob:")) for reference in references]
        assert [open_store(settings).get(key) for key in keys] == [p.read_bytes() for p in paths]

    def test_a_missing_file_is_an_error(self, client: Client, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            client.upload(tmp_path / "none.png")


class TestJobs:
    def test_a_refusal_names_the_line_and_the_field(self, client: Client) -> None:
        with pytest.raises(ApiError) as caught:
            client.submit([{"images": [IMAGE]}, {"images": ["nonsense"]}])

        assert (caught.value.status, caught.value.code) == (422, "invalid_request")
        assert caught.value.errors[0]["field"].startswith("items.1.images")

    def test_a_submission_that_is_sent_again_is_one_job(self, client: Client) -> None:
        items = [{"images": [IMAGE]}]

        ids = {client.submit(items, idempotency_key="once").id for _ in range(2)}

        assert len(ids) == 1

    def test_a_stream_of_items_is_answered_in_pages(
        self, client: Client, played: Played, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(protocol, "RESULTS", 2)
        asked = ({"images": [IMAGE], "custom_id": str(n)} for n in range(5))

        job = client.submit(asked, model="echo", defaults={"kind": "vqa", "question": "?"})
        with played.running("two"):
            ended = client.wait(job, seconds=PATIENCE_SECONDS)
        found = {result.custom_id: result.answer for result in client.results(ended)}

        assert (ended.state, ended.counts.finished) == ("succeeded", 5)
        assert found == {str(n): "two" for n in range(5)}
        assert [each.id for each in client.jobs()] == [job.id]
        assert [each.id for each in client.jobs(states=["paused", "succeeded"])] == [job.id]
        assert list(client.jobs(states=["paused"])) == []
        assert [each.id for each in client.jobs(name=job.name, model=job.model)] == [job.id]
        assert list(client.jobs(name="another")) == list(client.jobs(model="another")) == []

    def test_a_wait_without_patience_leaves_the_job_running(self, client: Client) -> None:
        job = client.submit([{"images": [IMAGE]}])

        with pytest.raises(WaitTimeout, match="after 0 s"):
            client.wait(job, seconds=0)
        assert client.job(job.id).is_final is False

    def test_a_job_is_paused_resumed_and_cancelled(self, client: Client) -> None:
        job = client.submit([{"images": [IMAGE]}])

        states = [steer(job).state for steer in (client.pause, client.resume, client.cancel)]

        assert states == ["paused", "queued", "cancelling"]

    def test_a_job_has_a_priority_that_can_be_changed_and_a_time_to_live(
        self, client: Client
    ) -> None:
        job = client.submit([{"images": [IMAGE]}], priority=2, expires_after_seconds=60)

        assert (job.priority, client.prioritize(job, -3).priority) == (2, -3)
        assert job.expires_at
        assert job.expires_at > job.created_at

    def test_a_finished_job_can_be_deleted_and_no_other(
        self, client: Client, played: Played
    ) -> None:
        job = client.submit([{"images": [IMAGE]}])
        with pytest.raises(ApiError, match="cancel it"):
            client.delete(job)
        played.step()

        client.delete(job)

        with pytest.raises(ApiError, match="no such job"):
            client.job(job.id)

    def test_what_failed_is_submitted_again(self, client: Client, played: Played) -> None:
        job = client.submit([{"images": [IMAGE], "custom_id": name} for name in "abc"])
        one, other, _ = taken = played.claim()
        played.fail([one], ImageUnreadable("no image"))
        played.fail([other], FetchFailed("away"))
        played.complete(taken[2:])

        every = client.retry(job)
        some = client.retry(job, codes=["fetch_failed"], idempotency_key="k")

        assert (every.counts.total, some.counts.total) == (2, 1)
        assert client.retry(job, codes=["fetch_failed"], idempotency_key="k").id == some.id


def test_a_program_that_uses_opentelemetry_sends_its_trace_context(
    client: Client, record: Database
) -> None:
    span = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1)))

    with use_span(span):
        job = client.submit([{"images": [IMAGE]}])

    with record.snapshot() as transaction:
        [found] = jobs.several(transaction, [job.id])
    assert found.traceparent == f"00-{0xABC:032x}-{0xDEF:016x}-01"


class TestEvents:
    def test_events_are_streamed_until_the_end(self, client: Client, played: Played) -> None:
        job = client.submit([{"images": [IMAGE], "custom_id": name} for name in "ab"])

        with played.running("seen"):
            events = list(client.events(job))

        names = [event.name for event in events]
        assert names[0] == "counts"
        assert names[-1] == "end"
        assert [e.result.answer for e in events if e.result] == ["seen", "seen"]
        assert events[-1].job
        assert events[-1].job.state == "succeeded"
        assert list(client.events(job, last_id="end")) == []
        assert [e.id for e in client.events(job, last_id="1") if e.result] == ["2"]

    def test_a_connection_that_breaks_is_made_again_and_goes_on(self, connect: Connect) -> None:
        body = _job("running"), _job("succeeded")
        item = json.dumps(_result())

        class Breaking(BaseHTTPRequestHandler):
            asked: ClassVar[list[str | None]] = []

            def do_GET(self) -> None:
                self.asked.append(self.headers["Last-Event-ID"])
                self.send_response(200)
                if len(self.asked) == 1:
                    self.send_header("Content-Length", "10000")
                self.end_headers()
                said = f"event: item\nid: 7\ndata: {item}\n\nevent: item\nid: 8\nda"
                if len(self.asked) > 1:
                    said = f"event: end\nid: end\ndata: {json.dumps(body[1])}\n\n"
                self.wfile.write(said.encode())

            def log_message(self, *_: object) -> None:
                pass

        with served(Breaking) as url:
            events = list(connect(url).events("job_1"))

        assert [(event.name, event.id) for event in events] == [("item", "7"), ("end", "end")]
        assert Breaking.asked == [None, "7"]

    def test_a_missing_job_is_an_error(self, client: Client) -> None:
        with pytest.raises(ApiError, match="no such job"):
            list(client.events("job_none"))


def _job(state: str) -> dict[str, Any]:
    counts = dict.fromkeys(("total", "queued", "running", "succeeded", "failed", "cancelled"), 0)
    at = "2026-11-21T10:00:00Z"
    rest = {"model": "m", "name": "", "items_per_second": None, "eta_seconds": None}
    return {"id": "j", "state": state, "counts": counts, "created_at": at, "finished_at": at} | rest


def _result() -> dict[str, Any]:
    rest: dict[str, Any] = {"custom_id": None, "state": "succeeded", "images": [], "error": None}
    return {"index": 0, "answer": {"text": "x"}} | rest


@contextlib.contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


class TestReaching:
    def test_an_unreachable_service_is_reported_in_one_line(self, connect: Connect) -> None:
        client = connect(f"http://127.0.0.1:{servers.free_port()}")

        assert client.is_ready() is False
        with pytest.raises(IdefiqError, match="cannot be reached"):
            client.submit(iter([]))

    def test_a_busy_service_is_asked_again_after_the_time_it_names(self, connect: Connect) -> None:
        class Busy(BaseHTTPRequestHandler):
            answers: ClassVar[list[int]] = [503, 429, 200]

            def do_GET(self) -> None:
                status = self.answers.pop(0)
                body = json.dumps({"data": []}).encode()
                self.send_response(status)
                self.send_header("Retry-After", "0")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        with served(Busy) as url:
            assert connect(url).models() == []

    def test_a_key_is_sent(self, connect: Connect, serve: Serve, sqlite_url: str) -> None:
        http = serve(sqlite_url, keys="always")
        database = Database(sqlite_url)
        with database.transaction() as transaction:
            key = owners.create_key(transaction, owners.get_or_create(transaction, "ada"))
        database.dispose()

        assert list(connect(str(http.base_url), key).jobs()) == []
        with pytest.raises(ApiError, match="API key is required"):
            list(connect(str(http.base_url)).jobs())

    def test_an_operator_makes_lists_and_revokes_keys(
        self, connect: Connect, serve: Serve, sqlite_url: str
    ) -> None:
        url = str(serve(sqlite_url, keys="always").base_url)
        database = Database(sqlite_url)
        with database.transaction() as transaction:
            ops = owners.get_or_create(transaction, "ops")
            operator = connect(url, owners.create_key(transaction, ops, scopes=["admin"]))
        database.dispose()

        made = operator.create_api_key("ada", note="ci", scopes=["read"], days=1)
        seen = {key.id: (key.owner, key.scopes, key.key) for key in operator.api_keys()}
        read = list(connect(url, made.key).jobs())
        operator.revoke_api_key(made.id)

        assert (seen[made.id], read) == (("ada", ["read"], None), [])
        with pytest.raises(ApiError, match="not valid"):
            list(connect(url, made.key).jobs())

    def test_an_url_that_is_none_is_refused(self) -> None:
        with pytest.raises(IdefiqError, match="invalid URL"):
            Client("localhost:8000")
