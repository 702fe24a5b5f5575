"""Buckets become items: listed by upkeep from a real S3 store."""

import io
from pathlib import Path
from typing import Any

import httpx2
import pytest

from db import owners
from db.blobs.s3 import s3_client
from db.owners import LOCAL_OWNER
from db.queue import jobs
from db.settings import StorageSettings
from db.sql.database import Database
from db.vocabulary.limits import OwnerLimits
from tests import pictures
from tests.db import builders
from tests.db.test_blobs import s3_settings
from tests.served import Serve
from tests.workers import parts
from workers.upkeep import listing


@pytest.fixture(scope="session")
def bucket(s3_endpoint: str) -> StorageSettings:
    """A bucket with pictures, and with what is none."""
    settings = s3_settings(s3_endpoint, "")
    client: Any = s3_client(settings)
    client.create_bucket(Bucket="holidays")
    names = [f"2026/{n:02}.png" for n in range(7)]
    for name in [*names, "2026/notes.txt", "2026/trip/Å b.JPG", "2025/old.png"]:
        client.upload_fileobj(io.BytesIO(pictures.plain()), "holidays", name)
    return settings


def submit(
    http: httpx2.Client, source: str = "s3://holidays/2026/", **fields: Any
) -> httpx2.Response:
    return http.post("/v1/jobs", json={"source": source, **fields})


def grant(record: Database, prefix: str = "2026/") -> None:
    with record.transaction() as transaction:
        owner = owners.get_or_create(transaction, LOCAL_OWNER)
        owners.grant(transaction, owner, bucket="holidays", prefix=prefix)


def look(record: Database, folder: Path, bucket: StorageSettings, times: int = 1) -> None:
    s3 = {name: value for name, value in bucket.model_dump().items() if name.startswith("s3_")}
    upkeep = parts.upkeep(record, folder, **{**s3, "s3_bucket": "own"})
    for _ in range(times):
        upkeep.run_once()


def test_the_images_below_a_prefix_become_items_page_by_page(
    http: httpx2.Client,
    offered: Database,
    tmp_path: Path,
    bucket: StorageSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listing, "PAGE_KEYS", 3)
    grant(offered)

    job = submit(http, defaults={"kind": "vqa", "question": "Who?"}).json()
    look(offered, tmp_path, bucket)
    found = http.get(f"/v1/jobs/{job['id']}").json()
    items = [http.get(f"/v1/jobs/{job['id']}/items/{n}").json() for n in range(8)]

    assert (job["state"], found["state"]) == ("importing", "queued")
    assert found["counts"]["total"] == 8
    names = [f"{n:02}.png" for n in range(7)] + ["trip/Å b.JPG"]
    assert sorted(item["custom_id"] for item in items) == names
    assert {item["images"][0] for item in items} == {f"s3://holidays/2026/{name}" for name in names}
    assert builders.counts(offered, job["id"]) == {"queued": 8}


@pytest.mark.parametrize(
    ("source", "status", "says"),
    [
        ("s3://holidays/2025/", 403, "not granted"),
        ("s3://holidays/20", 403, "not granted"),
        ("s3://other/2026/", 403, "not granted"),
        ("s3://holidays", 422, "source"),
        ("https://holidays/2026/", 422, "source"),
    ],
)
def test_only_what_was_granted_is_listed(
    http: httpx2.Client, offered: Database, source: str, status: int, says: str
) -> None:
    grant(offered)

    response = submit(http, source)

    assert (response.status_code, says in response.json()["detail"]) == (status, True)


def test_a_source_excludes_items_and_is_checked_against_the_model(
    http: httpx2.Client, offered: Database
) -> None:
    grant(offered)
    image = "blob:" + "0" * 64

    both = submit(http, items=[{"images": [image]}])
    lacking = submit(http, defaults={"kind": "vqa"})
    neither = http.post("/v1/jobs", json={"defaults": {}})

    assert [response.status_code for response in (both, lacking, neither)] == [422, 422, 422]
    assert "requires 'question'" in lacking.json()["detail"]
    assert "items or source is required" in neither.json()["detail"]


def test_a_bucket_that_is_gone_ends_the_job(
    http: httpx2.Client, offered: Database, tmp_path: Path, bucket: StorageSettings
) -> None:
    with offered.transaction() as transaction:
        owner = owners.get_or_create(transaction, LOCAL_OWNER)
        for name in ("gone", "own"):
            owners.grant(transaction, owner, bucket=name, prefix="")

    jobs = [submit(http, f"s3://{name}/a").json()["id"] for name in ("gone", "own")]
    look(offered, tmp_path, bucket)

    states = [http.get(f"/v1/jobs/{job}").json()["state"] for job in jobs]
    assert states == ["cancelled", "cancelled"]


def test_a_store_that_is_away_delays_the_listing(
    serve: Serve, offered: Database, tmp_path: Path, bucket: StorageSettings
) -> None:
    http = serve(offered.url)
    grant(offered)
    job = submit(http).json()["id"]

    away = bucket.model_copy(update={"s3_endpoint": "http://127.0.0.1:1"})
    look(offered, tmp_path, away)
    between = http.get(f"/v1/jobs/{job}").json()["state"]
    look(offered, tmp_path, bucket)

    assert (between, http.get(f"/v1/jobs/{job}").json()["counts"]["total"]) == ("importing", 8)


class TestQuotas:
    """A bucket is found bit by bit, so its size is judged bit by bit."""

    @pytest.fixture(autouse=True)
    def small_pages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(listing, "PAGE_KEYS", 3)

    @pytest.mark.parametrize("quota", ["max_job_items", "max_queued_items"])
    def test_a_bucket_with_more_than_an_owner_may_have_ends_its_job(
        self,
        quota: str,
        http: httpx2.Client,
        offered: Database,
        tmp_path: Path,
        bucket: StorageSettings,
    ) -> None:
        grant(offered)
        job = submit(http).json()["id"]
        with offered.transaction() as transaction:
            owners.limit(transaction, LOCAL_OWNER, OwnerLimits(**{quota: 5}))

        look(offered, tmp_path, bucket, times=3)

        found = http.get(f"/v1/jobs/{job}").json()
        assert found["state"] == "cancelled"
        assert found["counts"]["total"] <= 5

    def test_a_listing_waits_while_other_jobs_fill_the_quota(
        self, http: httpx2.Client, offered: Database, tmp_path: Path, bucket: StorageSettings
    ) -> None:
        grant(offered)
        full = http.post("/v1/jobs", json={"items": [{"images": [builders.IMAGE]}] * 9}).json()
        job = submit(http).json()["id"]
        with offered.transaction() as transaction:
            owner = owners.limit(transaction, LOCAL_OWNER, OwnerLimits(max_queued_items=10))

        look(offered, tmp_path, bucket, times=2)
        waiting = http.get(f"/v1/jobs/{job}").json()["state"]
        with offered.transaction() as transaction:
            jobs.cancel(transaction, owner.id, full["id"])
        look(offered, tmp_path, bucket, times=2)

        assert waiting == "importing"
        assert http.get(f"/v1/jobs/{job}").json()["counts"]["total"] == 8
