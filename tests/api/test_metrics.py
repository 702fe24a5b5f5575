"""Metrics of the API: what is counted, in which format, and who may read it."""

import json
import logging
import threading
from pathlib import Path
from types import SimpleNamespace

import httpx2
import psycopg
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics import parser

from db import logs, owners
from db.sql.database import Database
from db.vocabulary.errors import StorageError
from tests.api.test_keys import key
from tests.served import Serve
from tests.servers import PATIENCE_SECONDS

#: By name and labels.
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
OPENMETRICS = {"accept": "application/openmetrics-text; version=1.0.0"}


def parse(text: str) -> list[Metric]:
    return list(parser.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


def read(http: httpx2.Client) -> Samples:
    families = parse(http.get("/metrics", headers=OPENMETRICS).text)
    return {
        (sample.name, frozenset(sample.labels.items())): float(sample.value)
        for family in families
        for sample in family.samples
    }


def grown(http: httpx2.Client, earlier: Samples, name: str, **labels: str) -> float:
    found = (name, frozenset(labels.items()))
    return read(http).get(found, 0.0) - earlier.get(found, 0.0)


def test_metrics_are_openmetrics_for_those_who_accept_it(http_sqlite: httpx2.Client) -> None:
    plain = http_sqlite.get("/metrics")
    openmetrics = http_sqlite.get("/metrics", headers=OPENMETRICS)

    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")
    assert {"idefiq_http_requests", "idefiq_database_statement_seconds"} <= {
        family.name for family in parse(openmetrics.text)
    }


def test_a_request_counts_under_its_route_and_not_under_its_path(
    http_sqlite: httpx2.Client,
) -> None:
    before = read(http_sqlite)
    http_sqlite.get("/v1/jobs/job_1")
    http_sqlite.get("/v1/jobs/job_2")

    labels = {"method": "GET", "route": "/v1/jobs/{job_id}", "status": "404"}
    assert grown(http_sqlite, before, "idefiq_http_requests_total", **labels) == 2


def test_no_caller_can_add_to_the_labels(http_sqlite: httpx2.Client) -> None:
    before = read(http_sqlite)
    for number in range(3):
        http_sqlite.request(f"VERB{number}", f"/nowhere/{number}")

    counted = {key for key in read(http_sqlite) if key not in before}

    assert not [
        labels for _, labels in counted if "nowhere" in str(labels) or "VERB" in str(labels)
    ]


def test_accepted_items_count_once_however_often_the_job_is_sent(
    http: httpx2.Client, offered: Database
) -> None:
    before = read(http)
    image = {"images": ["blob:" + "ab" * 32]}
    for _ in range(2):
        http.post("/v1/jobs", json={"items": [image] * 3}, headers={"idempotency-key": "once"})
    stream = b'{"images": ["https://example.com/a.png"]}\n' * 4
    http.post("/v1/jobs", content=stream, headers={"content-type": "application/x-ndjson"})

    assert grown(http, before, "idefiq_items_accepted_total", source_api="job") == 7


def test_metrics_need_a_key_with_the_scope_metrics_or_admin(
    serve: Serve, offered: Database
) -> None:
    http = serve(offered.url, keys="always")
    told = {
        scope: http.get("/metrics", headers=key(offered, scope)).status_code
        for scope in owners.Scope
    }

    assert http.get("/metrics").status_code == 401
    assert [scope for scope, status in told.items() if status == 200] == ["metrics", "admin"]


def test_metrics_are_read_while_the_database_is_away(
    serve: Serve, offered: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    http = serve(offered.url, keys="always")
    allowed, other = key(offered, "metrics"), key(offered, "metrics", owner="bob")
    assert http.get("/metrics", headers=allowed).status_code == 200

    def away(*_: object) -> None:
        raise StorageError("the database is unavailable")

    monkeypatch.setattr(owners, "authenticate", away)
    monkeypatch.setattr("api.services.METRICS_KEY_SECONDS", 0.0)

    assert http.get("/metrics", headers=allowed).status_code == 200
    assert http.get("/metrics", headers=other).status_code == 503
    assert http.get("/v1/jobs", headers=allowed).status_code == 503


class TestReadiness:
    @pytest.mark.parametrize(
        ("hangs", "parts", "status"),
        [
            (
                "db.sql.schema.check_writable",
                {"database": "no answer within 5 s", "store": "not looked at: another part hangs"},
                "unavailable",
            ),
            (
                "db.blobs.folder.FolderStore.check_writable",
                {"database": "ok", "store": "no answer within 5 s"},
                "starting",
            ),
        ],
    )
    def test_a_part_that_hangs_is_named_and_keeps_no_other_request_waiting(
        self,
        http_sqlite: httpx2.Client,
        monkeypatch: pytest.MonkeyPatch,
        hangs: str,
        parts: dict[str, str],
        status: str,
    ) -> None:
        go_on = threading.Event()
        monkeypatch.setattr("api.readiness.LOOK_SECONDS", 0.2)
        monkeypatch.setattr(hangs, lambda _: go_on.wait(PATIENCE_SECONDS) and None)
        asked = [threading.Thread(target=http_sqlite.get, args=("/readyz",)) for _ in range(60)]
        for thread in asked:
            thread.start()
        try:
            hanging = http_sqlite.get("/readyz")
            assert http_sqlite.get("/v1/jobs").status_code == 200
        finally:
            go_on.set()
        for thread in asked:
            thread.join()

        assert (hanging.status_code, hanging.json()["status"]) == (503, status)
        assert hanging.json()["parts"].items() >= parts.items()

    def test_each_part_is_named(self, http_sqlite: httpx2.Client) -> None:
        assert http_sqlite.get("/readyz").json()["parts"] == {
            "database": "ok",
            "store": "ok",
            "disk": "ok",
            "redis": "unreachable",
            "intake": "no intake worker is alive",
            "engines": "no engine with a loaded model is alive",
        }

    def test_a_store_that_cannot_be_written_is_named(
        self, http_sqlite: httpx2.Client, tmp_path: Path
    ) -> None:
        (tmp_path / "blobs").rmdir()
        (tmp_path / "blobs").write_bytes(b"a file where the folder was")

        told = http_sqlite.get("/readyz")

        assert told.status_code == 503
        assert told.json()["parts"]["store"] == "the blob store cannot be written: Not a directory"

    def test_a_disk_that_is_full_is_named(
        self, http_sqlite: httpx2.Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told = []
        for free in (100, 300):
            usage = SimpleNamespace(total=2**40, free=free * 2**20)
            monkeypatch.setattr("shutil.disk_usage", lambda _, usage=usage: usage)
            monkeypatch.setattr("api.readiness.PROBE_SECONDS", 0.0)
            told.append(http_sqlite.get("/readyz").json()["parts"]["disk"])

        assert told == ["100 MiB are free, fewer than 256 MiB", "ok"]

    def test_a_small_disk_may_be_used(
        self, http_sqlite: httpx2.Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = SimpleNamespace(total=8 * 2**20, free=2**20)
        monkeypatch.setattr("shutil.disk_usage", lambda _: usage)

        assert http_sqlite.get("/readyz").json()["parts"]["disk"] == "ok"

    def test_a_database_that_takes_no_writes_is_named(
        self, serve: Serve, postgres_url: str
    ) -> None:
        http = serve(postgres_url)
        name = postgres_url.rpartition("/")[2]
        with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as operator:
            operator.execute(
                f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode()
            )
            operator.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

        told = http.get("/readyz")
        refused = http.post("/v1/webhooks", json={"url": "https://example.com/hook"})

        assert (told.status_code, told.json()["status"]) == (503, "starting")
        assert told.json()["parts"]["database"] == "the database is unavailable"
        assert refused.status_code == 503


def test_an_error_is_logged_with_the_id_that_its_body_has(
    http_sqlite: httpx2.Client, sqlite_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    handlers = root.handlers[:]
    logs.configure("api", "json")
    try:
        with Database(sqlite_url).transaction() as transaction:
            transaction.exec_driver_sql("ALTER TABLE webhooks RENAME COLUMN url TO elsewhere")
        answer = http_sqlite.get("/v1/webhooks")
    finally:
        root.handlers[:] = handlers

    logged = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line[0] == "{"]
    [failed] = [line for line in logged if line["message"].startswith("database: ")]
    assert answer.status_code == 503
    assert failed["request_id"] == answer.json()["request_id"] == answer.headers["x-request-id"]
