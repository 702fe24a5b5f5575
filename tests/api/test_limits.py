"""Priority, expiry and quotas, as callers see them."""

import base64
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from db import owners
from db.owners import LOCAL_OWNER
from db.queue import jobs
from db.settings import StorageSettings
from db.sql.database import Database
from db.vocabulary.limits import OwnerLimits
from tests import pictures
from tests.db import builders
from tests.served import Serve

IMAGE = "blob:" + "ab" * 32


def body(items: int, **job: Any) -> dict[str, Any]:
    return {**job, "items": [{"images": [IMAGE]}] * items}


def limited(database: Database, **limits: int) -> None:
    with database.transaction() as transaction:
        owners.limit(transaction, LOCAL_OWNER, OwnerLimits(**limits))


def test_a_priority_is_shown_and_can_be_changed(http_sqlite: httpx2.Client) -> None:
    job = http_sqlite.post("/v1/jobs", json=body(1, priority=3)).json()

    changed = http_sqlite.patch(f"/v1/jobs/{job['id']}", json={"priority": -2}).json()

    assert (job["priority"], changed["priority"]) == (3, -2)


@pytest.mark.parametrize("priority", [11, -11, "high", 1.5, None])
def test_a_priority_beyond_the_scale_is_refused(
    http_sqlite: httpx2.Client, priority: object
) -> None:
    refused = http_sqlite.post("/v1/jobs", json=body(1, priority=priority))

    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "priority")


def test_a_streamed_job_has_priority_and_expiry_too(http_sqlite: httpx2.Client) -> None:
    first = {"job": {"priority": 5, "expires_after_seconds": 60}}
    lines = "\n".join(json.dumps(line) for line in (first, {"images": [IMAGE]}))

    job = http_sqlite.post(
        "/v1/jobs", content=lines, headers={"Content-Type": "application/x-ndjson"}
    ).json()

    assert job["priority"] == 5
    assert job["expires_at"] > job["created_at"]


class TestQuotas:
    def test_what_waits_beyond_the_quota_is_refused_until_something_is_done(
        self, http: httpx2.Client, offered: Database
    ) -> None:
        limited(offered, max_queued_items=10)
        job = http.post("/v1/jobs", json=body(8)).json()

        refused = http.post("/v1/jobs", json=body(3))
        fits = http.post("/v1/jobs", json=body(2)).status_code
        with offered.transaction() as transaction:
            jobs.cancel(transaction, owners.get_or_create(transaction, LOCAL_OWNER).id, job["id"])
            jobs.settle_cancelled(transaction, job["id"], 100)
        later = http.post("/v1/jobs", json=body(3)).status_code

        assert (refused.status_code, refused.json()["code"]) == (429, "quota_exceeded")
        assert refused.headers["retry-after"].isdecimal()
        assert refused.headers["ratelimit-policy"] == '"queued-items";q=10'
        assert refused.headers["ratelimit"].startswith('"queued-items";r=2;t=')
        assert (fits, later) == (202, 202)

    def test_a_stream_counts_before_it_is_imported_and_leaves_nothing_when_refused(
        self, http: httpx2.Client, offered: Database
    ) -> None:
        limited(offered, max_queued_items=10)
        ndjson = {"Content-Type": "application/x-ndjson"}
        lines = "\n".join([json.dumps({"images": [IMAGE]})] * 6)

        statuses = [
            http.post("/v1/jobs", content=lines, headers=ndjson).status_code for _ in range(2)
        ]

        assert statuses == [202, 429]
        assert len(http.get("/v1/jobs").json()["data"]) == 1

    def test_a_submission_that_is_sent_again_is_answered_although_the_quota_is_full(
        self, http: httpx2.Client, offered: Database
    ) -> None:
        limited(offered, max_queued_items=5)
        key = {"Idempotency-Key": "once"}

        made = [http.post("/v1/jobs", json=body(5), headers=key) for _ in range(2)]

        assert [answer.status_code for answer in made] == [202, 202]
        assert made[0].json()["id"] == made[1].json()["id"]

    def test_a_job_of_more_items_than_an_owner_may_have_is_refused_for_good(
        self, http: httpx2.Client, offered: Database
    ) -> None:
        limited(offered, max_job_items=4)

        assert http.post("/v1/jobs", json=body(5)).status_code == 413
        assert http.post("/v1/jobs", json=body(4)).status_code == 202

    def test_bytes_beyond_the_quota_are_refused(
        self, http: httpx2.Client, offered: Database
    ) -> None:
        limited(offered, max_stored_bytes=100)

        sent = [
            http.post("/v1/images", files={"file": data}).status_code
            for data in (b"a" * 60, b"b" * 60, b"c" * 40)
        ]
        presigned = http.post("/v1/images/presign", json=[{"sha256": "0" * 64, "size_bytes": 1}])
        file = http.post("/v1/files", data={"purpose": "batch"}, files={"file": b"x"})
        job = http.post("/v1/jobs", json=body(1))

        assert sent == [201, 429, 201]
        assert [presigned.status_code, file.status_code] == [429, 429]
        assert file.json()["error"]["code"] == "quota_exceeded"
        assert job.status_code == 202

    def test_a_batch_over_the_storage_quota_is_not_reported_as_an_error_of_its_file(
        self, http: httpx2.Client, offered: Database
    ) -> None:
        url = "data:image/png;base64," + base64.b64encode(pictures.plain()).decode()
        content = [{"type": "image_url", "image_url": {"url": url}}]
        said = {"model": "echo", "messages": [{"role": "user", "content": content}]}
        line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": said}
        sent = {"file": json.dumps(line).encode()}
        file = http.post("/v1/files", data={"purpose": "batch"}, files=sent).json()
        new = {"input_file_id": file["id"], "endpoint": line["url"], "completion_window": "24h"}

        limited(offered, max_stored_bytes=1)
        refused = http.post("/v1/batches", json=new)
        limited(offered, max_stored_bytes=10**6)
        taken = http.post("/v1/batches", json=new)

        assert (refused.status_code, "Retry-After" in refused.headers) == (429, True)
        assert (taken.status_code, taken.json()["status"]) == (200, "validating")

    def test_without_a_quota_of_its_own_an_owner_has_that_of_the_settings(
        self, serve: Serve, offered: Database, tmp_path: Path
    ) -> None:
        http = serve(offered.url, store=StorageSettings(max_queued_items=3, store_folder=tmp_path))

        refused = http.post("/v1/jobs", json=body(4)).status_code
        limited(offered, max_queued_items=0)
        unlimited = http.post("/v1/jobs", json=body(4)).status_code

        assert (refused, unlimited) == (429, 202)

    def test_one_owners_quota_is_not_used_up_by_another(
        self, http: httpx2.Client, offered: Database
    ) -> None:
        limited(offered, max_queued_items=3)
        builders.job(offered, items=50, owner_id=builders.owner(offered, "eve"))

        assert http.post("/v1/jobs", json=body(3)).status_code == 202


@pytest.mark.parametrize("key", ["", "Bearer idq_nonsense"])
@pytest.mark.parametrize("path", ["/v1/images/known", "/v1/webhooks", "/v1/chat/completions"])
def test_without_a_valid_key_nobodys_body_is_parsed(
    serve: Serve, sqlite_url: str, path: str, key: str
) -> None:
    http = serve(sqlite_url, keys="always")
    headers = {"content-type": "application/json"} | ({"authorization": key} if key else {})

    refused = http.post(path, content=b"{", headers=headers)

    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
