"""The HTTP surface: whatever is sent, the answer is an answer and never a failure."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import response_schema_conformance

from api.app import create_app
from api.settings import ApiSettings
from db import owners
from db.queue import sessions
from db.settings import StorageSettings
from db.sql.database import Database
from db.vocabulary.states import Stage
from tests.api.test_keys import key
from tests.served import CARD, Serve

NDJSON = {"Content-Type": "application/x-ndjson"}


@pytest.fixture
def document(sqlite_url: str, tmp_path: Path) -> Iterator[Any]:
    """The OpenAPI document, and an application that answers at once."""
    database = Database(sqlite_url)
    with database.transaction() as transaction:
        sessions.offer(transaction, CARD)
        for stage in Stage:  # so that it says it is ready
            sessions.start(
                transaction, worker=stage.value, stage=stage, model="echo", lease_seconds=3_600
            )
        owner = owners.get_or_create(transaction, "local")
        key = owners.create_key(transaction, owner, scopes=list(owners.Scope))
    database.dispose()
    record = StorageSettings(database_url=sqlite_url, store_folder=tmp_path / "blobs")
    waits = {"max_wait_seconds": 0, "max_chat_seconds": 1, "redis_url": "redis://127.0.0.1:1/0"}
    app = create_app(record, ApiSettings.model_validate({"keys": "always", **waits}))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    schema.config.update(headers={"Authorization": f"Bearer {key}"})
    yield schema
    app.state.services.database.dispose()


def no_failure(_: object, response: Any, __: object) -> None:
    """501 says that a folder takes no direct uploads, 504 that no worker has answered."""
    assert response.status_code < 500 or response.status_code in (501, 504)


def test_no_request_makes_the_service_fail_or_answer_against_its_document(document: Any) -> None:
    tried = 0

    for found in document.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=40,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def sends(case: Any) -> None:
            nonlocal tried
            tried += 1
            case.call_and_validate(checks=[no_failure, response_schema_conformance])

        sends()

    assert tried >= 1_000


@pytest.mark.parametrize("depth", [100, 1_000, 100_000])
def test_json_that_is_nested_too_deep_is_refused(http_sqlite: httpx2.Client, depth: int) -> None:
    nested = "[" * depth + "]" * depth
    bodies = {
        "/v1/jobs": f'{{"items": [{{"images": {nested}}}]}}',
        "/v1/chat/completions": f'{{"model": "echo", "messages": {nested}}}',
        "/v1/images/known": nested,
        "/v1/webhooks": f'{{"url": {nested}}}',
    }
    for path, body in bodies.items():
        answer = http_sqlite.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422), (path, answer.text[:200])


@pytest.mark.parametrize(
    ("lines", "number"),
    [
        (b'{"images": ["blob:%s"]}\n{"images": \n' % (b"ab" * 32), 2),
        (b"\xff\xfe\n", 1),
        (b'{"images": ["blob:%s"]}\n\n[1]\n' % (b"ab" * 32), 3),
        (b'{"images": ["x"]}', 1),
        (b"\x00\n", 1),
    ],
)
def test_a_broken_line_of_a_stream_is_named_and_nothing_is_kept(
    http_sqlite: httpx2.Client, lines: bytes, number: int
) -> None:
    answer = http_sqlite.post("/v1/jobs", content=lines, headers=NDJSON)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["line"] == number
    assert http_sqlite.get("/v1/jobs").json()["data"] == []


def test_headers_without_end_are_refused(http_sqlite: httpx2.Client) -> None:
    answer = http_sqlite.get("/v1/jobs", headers={"X-Long": "a" * 100_000})

    assert (answer.status_code, answer.json()["code"]) == (431, "headers_too_large")


@pytest.mark.parametrize(
    "media_type", ["application/json", *NDJSON.values(), "multipart/form-data"]
)
@pytest.mark.parametrize("path", ["/v1/webhooks", "/v1/keys", "/v1/images/known"])
def test_no_media_type_makes_room_for_a_body_where_none_is_needed(
    serve: Serve, sqlite_url: str, path: str, media_type: str
) -> None:
    http = serve(sqlite_url, keys="always", max_body_bytes=1000)
    database = Database(sqlite_url)
    allowed = key(database, "admin", "submit")
    database.dispose()

    headers = {"Content-Type": media_type, **allowed}
    answer = http.post(path, content=b" " * 2000, headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_browser_that_opens_the_address_is_led_to_the_documentation(
    method: str, http_sqlite: httpx2.Client
) -> None:
    answer = http_sqlite.request(method, "/")

    assert (answer.status_code, answer.headers["location"]) == (307, "docs")


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/none", "/healthz", "/nowhere"])
def test_every_response_has_the_headers_that_restrict_browsers(
    http_sqlite: httpx2.Client, path: str
) -> None:
    headers = http_sqlite.get(path).headers

    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in headers["content-security-policy"]


def test_logs_hold_no_key_no_prompt_and_no_image(
    http_sqlite: httpx2.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    secret = {"Authorization": f"Bearer idq_{'0' * 12}_{'5e' * 20}"}
    item = {"images": ["data:image/png;base64,c2VjcmV0"], "prompt": "my secret question"}

    http_sqlite.get("/v1/jobs", headers=secret)
    http_sqlite.post("/v1/jobs", json={"items": [item]})
    http_sqlite.post("/v1/jobs", content=json.dumps(item) + "\n{", headers=NDJSON)

    for word in ("5e5e5e5e", "my secret question", "c2VjcmV0"):
        ours = [one for one in caplog.records if not one.name.startswith(("httpx2", "httpcore2"))]
        assert not any(word in one.getMessage() for one in ours), word


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/chat/completions", {"content": [{"type": "text", "text": 3}]}, "text"),
        ("/v1/chat/completions", {"content": [{"type": "film"}]}, ""),
        ("/v1/jobs", {"content": [{"type": "image"}]}, "index"),
        ("/v1/chat/completions", {"content": [{"type": "text"}]}, "text"),
    ],
)
def test_an_error_names_the_field_as_it_was_sent(
    http_sqlite: httpx2.Client, path: str, body: dict[str, Any], field: str
) -> None:
    messages = [{"role": "user", **body}]
    item = {"kind": "chat", "messages": messages, "images": []}
    is_chat = path.endswith("completions")

    answer = http_sqlite.post(
        path, json={"model": "m", "messages": messages} if is_chat else {"items": [item]}
    ).json()

    named = answer["error"]["param"] if is_chat else answer["errors"][0]["field"]
    where = "messages[0].content[0]" if is_chat else "items.0.messages.0.content.0"
    assert named == f"{where}.{field}".strip(".")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"stop": {"x": 1}}, "stop"),
        ({"messages": [{"role": "user", "content": {"a": 1}}]}, "messages[0].content"),
        ({"messages": 3}, "messages"),
    ],
)
def test_an_error_names_no_branch_of_a_union(
    http_sqlite: httpx2.Client, fields: dict[str, Any], named: str
) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}

    assert http_sqlite.post("/v1/chat/completions", json=body).json()["error"]["param"] == named


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/job_none", "/v1/usage"])
def test_a_query_parameter_that_a_route_does_not_have_is_refused_by_name(
    path: str, http_sqlite: httpx2.Client
) -> None:
    answer = http_sqlite.get(path, params={"limt": 5})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "limt"
    assert "this route takes: " in answer.json()["errors"][0]["message"]
    assert http_sqlite.get("/v1/files", params={"api-version": "2"}).status_code == 200


def test_every_error_body_carries_the_id_of_its_request(http_sqlite: httpx2.Client) -> None:
    answers = [
        http_sqlite.get("/v1/jobs/job_none"),
        http_sqlite.post("/v1/jobs", json={"items": 3}),
        http_sqlite.get("/v1/jobs", params={"limit": "many"}),
        http_sqlite.delete("/healthz"),
        http_sqlite.get("/v1/jobs", headers={"x-long": "x" * 70_000}),
        http_sqlite.post("/v1/chat/completions", json={}),
    ]

    for answer in answers:
        assert answer.status_code >= 400
        body = answer.json()
        assert body.get("error", body)["request_id"] == answer.headers["x-request-id"]
    assert [answer.status_code for answer in answers] == [404, 422, 422, 405, 431, 400]
