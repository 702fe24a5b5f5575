"""Strings that a database cannot hold: NUL, and halves of surrogate pairs."""

import json
from typing import Any

import httpx2
import pytest

from db.sql.database import Database
from tests.api.test_keys import key
from tests.db import builders
from tests.served import Serve

NUL, HALF = "a\\u0000b", "a\\ud800b"
JOB = {"items": [{"images": [builders.IMAGE]}]}
#: 400 is the status of OpenAI's interface.
REFUSED = frozenset({400, 404, 422})
#: Route, and a body with X where the string goes.
BODIES: list[tuple[str, Any]] = [
    ("/v1/jobs", {**JOB, "name": "X"}),
    ("/v1/jobs", {**JOB, "model": "X"}),
    ("/v1/jobs", {"items": [{"images": [builders.IMAGE], "custom_id": "X"}]}),
    ("/v1/jobs", {"items": [{"images": [builders.IMAGE], "prompt": "X"}]}),
    ("/v1/jobs", {"items": [{"images": ["https://example.com/X"]}]}),
    ("/v1/jobs", {"source": "s3://bucket/X"}),
    ("/v1/jobs", {"items": [{"images": [builders.IMAGE], "alt_text": {"page": "X"}}]}),
    ("/v1/jobs", {"items": [{"images": [builders.IMAGE], "language": "X"}]}),
    ("/v1/jobs", {"items": [{"images": [builders.IMAGE], "options": {"stop": ["X"]}}]}),
    ("/v1/keys", {"owner": "X"}),
    ("/v1/keys", {"owner": "ada", "note": "X"}),
    ("/v1/keys", {"owner": "ada", "holder": "X"}),
    (
        "/v1/batches",
        {
            "input_file_id": "X",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        },
    ),
    (
        "/v1/batches",
        {
            "input_file_id": "file-a",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {"X": "X"},
        },
    ),
    ("/v1/chat/completions", {"model": "X", "messages": [{"role": "user", "content": "a"}]}),
    ("/v1/chat/completions", {"model": "echo", "messages": [{"role": "user", "content": "X"}]}),
]
PATHS = [
    "/v1/jobs/X",
    "/v1/jobs/X/results",
    "/v1/jobs/X/events",
    "/v1/batches/X",
    "/v1/files/X",
    "/v1/webhooks/X",
    "/v1/models/X",
    "/v1/images/X",
    "/v1/owners/X",
    "/v1/jobs?after=X",
    "/v1/files?purpose=X",
    "/v1/files?after=X",
    "/v1/batches?after=X",
    "/v1/reviews?job=X",
    "/v1/reviews?custom_id=X",
    "/v1/reviews?after=X",
    "/v1/audit?after=X",
]


@pytest.fixture
def admin(serve: Serve, offered: Database) -> httpx2.Client:
    http = serve(offered.url, keys="always")
    http.headers.update(key(offered, "admin", "submit", "read", "review"))
    return http


@pytest.mark.parametrize("string", [NUL, HALF], ids=["NUL", "half a pair"])
def test_a_body_with_one_is_a_clear_error_on_both_databases(
    string: str, admin: httpx2.Client
) -> None:
    answers = {}
    for path, body in BODIES:
        content = json.dumps(body).replace("X", string)
        answered = admin.post(path, content=content, headers={"content-type": "application/json"})
        answers[f"{path} {content}"] = (answered.status_code, answered.text)

    assert {place: told for place, told in answers.items() if told[0] not in REFUSED} == {}


@pytest.mark.parametrize("string", ["a%00b", "a%ED%A0%80b"], ids=["NUL", "half a pair"])
def test_a_path_or_query_with_one_is_a_clear_error_on_both_databases(
    string: str, admin: httpx2.Client
) -> None:
    answers = {}
    for path in PATHS:
        answered = admin.get(path.replace("X", string))
        answers[path] = (answered.status_code, answered.text)

    # On SQLite some are looked up, and not found.
    known = {200, *REFUSED}
    assert {place: told for place, told in answers.items() if told[0] not in known} == {}
