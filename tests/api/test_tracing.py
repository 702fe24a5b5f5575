"""Trace contexts over HTTP when traces are off: accepted, returned, and stored with the job."""

import httpx2
import pytest

from db import owners
from db.queue import jobs
from db.sql.database import Database
from tests.db import builders
from tests.db.test_tracing import GIVEN, TRACE

LINES = '{"images": ["' + builders.IMAGE + '"]}\n'
JSONL = {"content-type": "application/x-ndjson"}


@pytest.mark.parametrize("form", ["json", "stream", "retry"])
def test_the_context_of_a_request_is_returned_and_is_that_of_its_job_and_its_leases(
    http: httpx2.Client, offered: Database, form: str
) -> None:
    owner_id = builders.owner(offered, owners.LOCAL_OWNER)
    builders.checked_image(offered, owner_id)
    headers = {"traceparent": GIVEN}
    if form == "stream":
        made = http.post("/v1/jobs", content=LINES, headers=JSONL | headers)
    else:
        items = {"items": [{"images": [builders.IMAGE]}]}
        made = http.post("/v1/jobs", json=items, headers=headers if form == "json" else {})
    if form == "retry":
        builders.fail(offered, builders.claim(offered, builders.session(offered)))
        made = http.post(f"/v1/jobs/{made.json()['id']}/retry", headers=headers)

    assert made.headers["traceparent"] == GIVEN
    with offered.snapshot() as transaction:
        assert jobs.get(transaction, owner_id, made.json()["id"]).traceparent == GIVEN
    if form != "stream":
        [lease] = builders.claim(offered, builders.session(offered, "w2"))
        assert lease.ids["trace_id"] == TRACE


@pytest.mark.parametrize("given", ["", "nonsense", GIVEN[:-1]])
def test_a_context_that_is_none_is_ignored(http_sqlite: httpx2.Client, given: str) -> None:
    answered = http_sqlite.get("/v1/models", headers={"traceparent": given})

    assert answered.status_code == 200
    assert "traceparent" not in answered.headers
