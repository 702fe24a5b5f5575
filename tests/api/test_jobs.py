"""Jobs over HTTP: what is accepted, what is refused and by which words, and what is told."""

import base64
import contextlib
import json
import socket
import threading
from typing import Any

import httpx2
import psycopg
import pytest

from db import owners
from db.sql.database import Database
from tests import pictures
from tests.db import builders
from tests.served import Serve
from tests.servers import PATIENCE_SECONDS

IMAGE = "blob:" + "ab" * 32
NDJSON = {"content-type": "application/x-ndjson"}


def lines(*documents: object) -> bytes:
    return b"".join(json.dumps(document).encode() + b"\n" for document in documents)


def answer(database: Database, count: int = 100, text: str = "an answer") -> int:
    """Do what an engine would do. Returns how many items it answered."""
    taken = builders.claim(database, builders.session(database), limit=count)
    return len(builders.complete(database, taken, text))


def local_image(database: Database) -> str:
    """A checked image of the owner of keyless requests."""
    return builders.checked_image(database, builders.owner(database, owners.LOCAL_OWNER))


class TestSubmitting:
    def test_an_accepted_job_has_a_location_and_retry_after(self, http: httpx2.Client) -> None:
        response = http.post("/v1/jobs", json={"items": [{"images": [IMAGE]}] * 3, "name": "mine"})

        body = response.json()
        assert response.status_code == 202
        assert response.headers["location"] == f"/v1/jobs/{body['id']}"
        assert response.headers["retry-after"] == "1"
        assert (body["state"], body["model"], body["name"]) == ("queued", "echo", "mine")
        assert body["counts"] == {
            "total": 3, "queued": 3, "running": 0, "succeeded": 0, "failed": 0, "cancelled": 0,
        }  # fmt: skip

    def test_a_stream_is_accepted_and_waits_for_its_import(self, http: httpx2.Client) -> None:
        body = lines({"job": {"name": "s", "defaults": {"kind": "caption"}}}, {"images": [IMAGE]})

        response = http.post("/v1/jobs", content=body, headers=NDJSON)

        assert response.status_code == 202
        assert (response.json()["state"], response.json()["name"]) == ("importing", "s")

    def test_a_stream_needs_no_line_of_the_job_and_no_last_newline(
        self, http: httpx2.Client
    ) -> None:
        body = lines({"images": [IMAGE]}, {"images": [IMAGE]}).rstrip() + b""

        assert http.post("/v1/jobs", content=body, headers=NDJSON).status_code == 202

    @pytest.mark.parametrize(
        ("item", "code", "field", "says"),
        [
            ({"images": ["file:///etc/passwd"]}, "invalid_request", "images", "blob:SHA256"),
            (
                {"images": [IMAGE], "kind": "vqa"},
                "invalid_request",
                "question",
                "requires 'question'",
            ),
            ({"images": [IMAGE], "kind": "generate"}, "unsupported_kind", "kind", "caption, vqa"),
            ({"images": [IMAGE], "promt": "?"}, "invalid_request", "promt", "unknown field"),
            ({"images": ["data:image/png;base64,@"]}, "invalid_request", "images", "reference"),
        ],
    )
    def test_a_mistake_is_reported_with_its_line_or_index_and_its_field(
        self, http_sqlite: httpx2.Client, item: dict[str, Any], code: str, field: str, says: str
    ) -> None:
        good = {"images": [IMAGE]}

        streamed = http_sqlite.post("/v1/jobs", content=lines(good, good, item), headers=NDJSON)
        whole = http_sqlite.post("/v1/jobs", json={"items": [good, good, item]})

        for response, where in ((streamed, {"line": 3}), (whole, {})):
            body = response.json()
            assert (response.status_code, body["code"]) == (422, code)
            assert response.headers["content-type"] == "application/problem+json"
            [error] = body["errors"]
            assert says in error["message"]
            assert error.items() >= where.items()
        assert streamed.json()["errors"][0]["field"].startswith(field)
        assert whole.json()["errors"][0]["field"].startswith(f"items.2.{field}")
        assert http_sqlite.get("/v1/jobs").json()["data"] == []

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"{", "Invalid JSON"),
            (b'{"job": 1}\n', "job: Input should be an object"),
            (b'{"job": {"modle": "x"}}', "modle: unknown field"),
        ],
    )
    def test_a_line_that_is_no_item_is_refused(
        self, http_sqlite: httpx2.Client, content: bytes, says: str
    ) -> None:
        response = http_sqlite.post("/v1/jobs", content=content, headers=NDJSON)

        assert response.status_code == 422
        assert says in response.json()["detail"]

    @pytest.mark.parametrize(
        "first",
        [
            b'{"job": ' + b"[" * 100_000,
            b'{"job": {"name": "\xff"}}',
            b'{"job": {"name": ' + b"1" * 5_000 + b"}}",
            b'{"job": {"name": "a\\u0000b"}}',
            b'{"images": ["' + IMAGE.encode() + b'"], "prompt": "a\\u0000b"}',
            b'{"images": ["' + IMAGE.encode() + b'"], "prompt": "\\ud800"}',
        ],
        ids=["deep", "not UTF-8", "huge number", "NUL", "NUL in an item", "half a character"],
    )
    def test_hostile_lines_are_refused_on_both_databases(
        self, http: httpx2.Client, first: bytes
    ) -> None:
        response = http.post("/v1/jobs", content=first + b"\n", headers=NDJSON)

        assert (response.status_code, response.json()["code"]) == (422, "invalid_request")

    def test_too_many_items_are_refused_while_they_are_read(
        self, http_sqlite: httpx2.Client
    ) -> None:
        bodies = [{"items": [{}] * 500_000}, {"items": [1] * 500_000}]

        responses = [http_sqlite.post("/v1/jobs", json=body) for body in bodies]

        assert [response.status_code for response in responses] == [422, 422]
        assert all(len(response.content) < 2_000 for response in responses)

    def test_an_unknown_model_is_refused_with_those_there_are(
        self, http_sqlite: httpx2.Client
    ) -> None:
        response = http_sqlite.post("/v1/jobs", json={"model": "gpt", "items": []})

        assert (response.status_code, response.json()["code"]) == (422, "unknown_model")
        assert "known models: echo" in response.json()["detail"]

    def test_another_content_type_is_refused(self, http_sqlite: httpx2.Client) -> None:
        response = http_sqlite.post("/v1/jobs", content=b"x", headers={"content-type": "text/csv"})

        assert (response.status_code, response.json()["code"]) == (415, "wrong_media_type")

    def test_a_body_or_a_line_that_is_too_large_is_refused(
        self, serve: Serve, sqlite_url: str
    ) -> None:
        http = serve(sqlite_url, max_body_bytes=1000, max_line_bytes=1000, max_stream_bytes=10_000)

        whole = http.post("/v1/jobs", json={"items": [], "name": "x" * 2000})
        line = http.post("/v1/jobs", content=b"x" * 2000, headers=NDJSON)
        chunked = http.post("/v1/jobs", content=(b"\n" * 1000 for _ in range(50)), headers=NDJSON)

        assert [r.status_code for r in (whole, line, chunked)] == [413, 413, 413]
        assert [r.json()["code"] for r in (whole, line, chunked)] == ["too_large"] * 3

    def test_an_item_is_bounded_beside_its_images(self, http_sqlite: httpx2.Client) -> None:
        image = "data:image/png;base64," + base64.b64encode(bytes(400_000)).decode()
        text = {"type": "text", "text": "x" * 20_000}
        shown = {"type": "image", "index": 0}
        item = {"images": [image], "messages": [{"role": "user", "content": [shown, *[text] * 14]}]}

        whole = http_sqlite.post("/v1/jobs", json={"items": [item | {"kind": "chat"}]})
        line = http_sqlite.post("/v1/jobs", json={"items": [], "defaults": item | {"kind": "chat"}})

        for answer in (whole, line):
            assert answer.status_code == 422
            assert "bytes beside its images" in answer.json()["detail"]

    def test_an_image_in_the_request_becomes_a_blob(self, http: httpx2.Client) -> None:
        data = "data:image/png;base64," + base64.b64encode(pictures.plain()).decode()

        job = http.post("/v1/jobs", json={"items": [{"images": [data]}]}).json()
        item = http.get(f"/v1/jobs/{job['id']}/items/0").json()

        assert item["request"]["images"][0].startswith("blob:")

    def test_a_slow_client_delays_no_other(self, http: httpx2.Client) -> None:
        host, port = http.base_url.host, http.base_url.port
        with socket.create_connection((host, port or 80)) as slow:
            slow.sendall(
                b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
                b"Content-Type: application/x-ndjson\r\n\r\n"
            )
            line = lines({"images": [IMAGE]})
            for _ in range(5):
                slow.sendall(f"{len(line):x}\r\n".encode() + line + b"\r\n")

                response = http.post("/v1/jobs", json={"items": [{"images": [IMAGE]}]})
                assert response.status_code == 202
            slow.sendall(b"0\r\n\r\n")
            assert slow.recv(1000).startswith(b"HTTP/1.1 202")


class TestIdempotencyKeys:
    @pytest.mark.parametrize("form", ["json", "stream"])
    def test_the_same_key_and_body_make_one_job(self, http: httpx2.Client, form: str) -> None:
        body, headers = self.request(form)

        ids = {http.post("/v1/jobs", content=body, headers=headers).json()["id"] for _ in range(3)}

        assert len(ids) == 1
        assert len(http.get("/v1/jobs").json()["data"]) == 1

    @pytest.mark.parametrize("form", ["json", "stream"])
    def test_fifty_at_once_make_one_job(self, http: httpx2.Client, form: str) -> None:
        body, headers = self.request(form)
        ids: list[str] = []

        def post() -> None:
            with httpx2.Client(base_url=http.base_url, timeout=PATIENCE_SECONDS) as client:
                ids.append(client.post("/v1/jobs", content=body, headers=headers).json()["id"])

        threads = [threading.Thread(target=post) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert (len(ids), len(set(ids))) == (50, 1)

    def test_another_body_under_the_key_is_refused(self, http: httpx2.Client) -> None:
        for form in ("json", "stream"):
            body, headers = self.request(form)
            response = http.post("/v1/jobs", content=body, headers=headers)

        assert (response.status_code, response.json()["code"]) == (422, "idempotency_conflict")

    def request(self, form: str) -> tuple[bytes, dict[str, str]]:
        key = {"Idempotency-Key": '"my key"'}
        if form == "json":
            body = json.dumps({"items": [{"images": [IMAGE]}]}).encode()
            return body, {**key, "content-type": "application/json"}
        return lines({"images": [IMAGE]}), {**key, **NDJSON}


class TestLooking:
    def test_results_are_available_while_the_job_runs_and_a_cursor_misses_none(
        self, http: httpx2.Client, offered: Database
    ) -> None:
        image = local_image(offered)
        job = http.post("/v1/jobs", json={"items": [{"images": [image]}] * 5}).json()["id"]
        url, seen, query = f"/v1/jobs/{job}/results", [], {"limit": "2"}

        empty = http.get(url).json()
        for count in (3, 2):
            answer(offered, count)
            while (page := http.get(url, params=query).json())["data"]:
                seen += [result["index"] for result in page["data"]]
                query["after"] = page["next"]

        assert (empty["data"], empty["complete"]) == ([], False)
        assert seen == [0, 1, 2, 3, 4]
        assert http.get(url, params=query).json()["complete"]

    def test_results_stream_as_lines_and_the_last_one_tells_whether_more_will_come(
        self, http: httpx2.Client, offered: Database
    ) -> None:
        image = local_image(offered)
        items = [{"images": [image], "custom_id": f"c{n}"} for n in range(3)]
        job = http.post("/v1/jobs", json={"items": items}).json()["id"]
        accept = {"accept": "application/x-ndjson"}

        answer(offered, 2)
        early = http.get(f"/v1/jobs/{job}/results", headers=accept)
        answer(offered, 1)
        late = http.get(f"/v1/jobs/{job}/results", headers=accept)

        assert (early.headers["x-incomplete"], late.headers["x-incomplete"]) == ("true", "false")
        found = [json.loads(line) for line in late.text.splitlines()]
        assert [one["custom_id"] for one in found] == ["c0", "c1", "c2"]
        assert [one["answer"] for one in found] == [{"text": "an answer"}] * 3
        assert len(early.text.splitlines()) == 2

    def test_the_results_file_exists_when_the_job_has_finished(
        self, http: httpx2.Client, offered: Database
    ) -> None:
        image = local_image(offered)
        job = http.post("/v1/jobs", json={"items": [{"images": [image]}] * 3}).json()["id"]

        early = http.get(f"/v1/jobs/{job}/results.jsonl")
        answer(offered)
        late = http.get(f"/v1/jobs/{job}/results.jsonl")

        assert (early.status_code, early.json()["code"]) == (409, "not_ready")
        assert [json.loads(line)["index"] for line in late.text.splitlines()] == [0, 1, 2]

    def test_jobs_are_listed_in_pages(self, http: httpx2.Client) -> None:
        made = [http.post("/v1/jobs", json={"items": []}).json()["id"] for _ in range(3)]

        first = http.get("/v1/jobs", params={"limit": 2}).json()
        second = http.get("/v1/jobs", params={"limit": 2, "after": first["next"]}).json()

        assert [job["id"] for job in first["data"] + second["data"]] == made[::-1]
        assert (first["has_more"], second["has_more"], second["next"]) == (True, False, None)

    @pytest.mark.parametrize(
        "path",
        [
            "/v1/jobs/nope",
            "/v1/jobs/nope/results",
            "/v1/jobs/nope/results.jsonl",
            "/v1/jobs/nope/items/0",
            "/v1/nope",
        ],
    )
    def test_an_unknown_path_is_a_404_problem(self, http_sqlite: httpx2.Client, path: str) -> None:
        response = http_sqlite.get(path)

        assert (response.status_code, response.json()["code"]) == (404, "not_found")

    @pytest.mark.parametrize(
        "cursor", ["!", "bm9wZQ", "x", "ü", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5", "AAAA"]
    )
    def test_a_made_up_cursor_is_refused(self, http_sqlite: httpx2.Client, cursor: str) -> None:
        job = http_sqlite.post("/v1/jobs", json={"items": []}).json()["id"]

        response = http_sqlite.get(f"/v1/jobs/{job}/results", params={"after": cursor})

        assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "after")


@pytest.mark.parametrize(
    "path", ["/v1/jobs/x/items/" + "9" * 25, "/v1/jobs/x/items/-1", "/v1/jobs/a%00b"]
)
def test_places_that_cannot_be_are_refused(http: httpx2.Client, path: str) -> None:
    assert http.get(path).status_code in (404, 422)


class TestWaiting:
    def test_a_preference_to_wait_answers_when_the_job_has_finished(
        self, http: httpx2.Client, offered: Database
    ) -> None:
        image = local_image(offered)
        job = http.post("/v1/jobs", json={"items": [{"images": [image]}]}).json()["id"]
        later = threading.Timer(0.3, answer, args=(offered,))
        later.start()

        response = http.get(f"/v1/jobs/{job}", headers={"Prefer": "wait=25"})
        later.join()

        assert response.json()["state"] == "succeeded"
        assert response.headers["preference-applied"] == "wait=25"

    def test_a_wait_that_runs_out_answers_with_the_job_as_it_is(
        self, http_sqlite: httpx2.Client
    ) -> None:
        response = http_sqlite.post(
            "/v1/jobs", json={"items": [{"images": [IMAGE]}]}, headers={"Prefer": "wait=1"}
        )

        assert (response.status_code, response.json()["state"]) == (202, "queued")

    def test_five_hundred_waiting_clients_block_no_other(
        self, serve: Serve, offered: Database
    ) -> None:
        http = serve(offered.url, max_wait_seconds=600)
        image = local_image(offered)
        job = http.post("/v1/jobs", json={"items": [{"images": [image]}]}).json()["id"]
        host, port = http.base_url.host, http.base_url.port or 80
        head = f"GET /v1/jobs/{job} HTTP/1.1\r\nHost: localhost\r\nPrefer: wait=600\r\n"
        with contextlib.ExitStack() as open_sockets:
            waiters = [
                open_sockets.enter_context(socket.create_connection((host, port)))
                for _ in range(500)
            ]
            for waiter in waiters:
                waiter.sendall(f"{head}Connection: close\r\n\r\n".encode())

            # If waiting took threads, these would come when the first of them give up.
            assert http.get("/healthz", timeout=300).status_code == 200
            assert http.get(f"/v1/jobs/{job}", timeout=300).json()["state"] == "queued"
            answer(offered)

            for waiter in waiters:
                waiter.settimeout(PATIENCE_SECONDS)
                assert b'"succeeded"' in open_sockets.enter_context(waiter.makefile("rb")).read()


class TestSteering:
    def test_a_cancelled_job_keeps_its_answers(
        self, http: httpx2.Client, offered: Database
    ) -> None:
        image = local_image(offered)
        job = http.post("/v1/jobs", json={"items": [{"images": [image]}] * 3}).json()["id"]
        answer(offered, 1)

        cancelled = http.post(f"/v1/jobs/{job}/cancel").json()

        assert cancelled["state"] == "cancelling"
        assert len(http.get(f"/v1/jobs/{job}/results").json()["data"]) == 1

    def test_a_job_is_paused_and_resumed(self, http: httpx2.Client) -> None:
        job = http.post("/v1/jobs", json={"items": [{"images": [IMAGE]}]}).json()["id"]

        states = [
            http.post(f"/v1/jobs/{job}/{verb}").json()["state"] for verb in ("pause", "resume")
        ]

        assert states == ["paused", "queued"]

    @pytest.mark.parametrize("verb", ["cancel", "pause", "resume"])
    def test_a_job_that_is_not_there_cannot_be_steered(
        self, http_sqlite: httpx2.Client, verb: str
    ) -> None:
        assert http_sqlite.post(f"/v1/jobs/nope/{verb}").status_code == 404


def test_an_unreachable_database_is_a_503_with_retry_after(serve: Serve, postgres_url: str) -> None:
    http = serve(postgres_url)
    maintenance, _, name = postgres_url.rpartition("/")
    with psycopg.connect(f"{maintenance}/postgres".replace("+psycopg", ""), autocommit=True) as c:
        c.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        c.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        )
        away = http.get("/v1/jobs")
        ready = http.get("/readyz")
        alive = http.get("/healthz")
        c.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
    back = http.get("/v1/jobs")

    assert (away.status_code, away.json()["code"]) == (503, "storage_unavailable")
    assert away.headers["retry-after"] == "2"
    assert (ready.status_code, alive.status_code, back.status_code) == (503, 200, 200)
    assert ready.json()["database"] == "unreachable"
    assert ready.json()["record"] == "away"  # as release 0.1 says it


def test_no_redis_is_no_reason_to_refuse_a_job(http: httpx2.Client) -> None:
    response = http.post("/v1/jobs", json={"items": [{"images": [IMAGE]}]})

    assert response.status_code == 202  # the fixture's Redis is a closed port
