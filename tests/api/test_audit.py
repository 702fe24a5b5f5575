"""The audit: who did what, kept whatever becomes of it."""

import csv
import io
import json
import subprocess
import sys
from typing import Any

import httpx2
import pytest

from db import owners
from db.sql.database import Database
from idefiq import Client
from tests import pictures
from tests.db import builders
from tests.served import Serve

ADA = "Ada Lovelace"


def held_key(database: Database, *scopes: str, owner: str = "ada", holder: str = ADA) -> str:
    with database.transaction() as transaction:
        found = owners.get_or_create(transaction, owner)
        return owners.create_key(
            transaction, found, holder=holder, scopes=scopes or owners.USUAL_SCOPES
        )


def bearer(made: str) -> dict[str, str]:
    return {"authorization": f"Bearer {made}"}


@pytest.fixture
def http(serve: Serve, offered: Database) -> httpx2.Client:
    return serve(offered.url, keys="always")


@pytest.fixture
def admin(offered: Database) -> dict[str, str]:
    return bearer(held_key(offered, "admin", owner="operator", holder="Grace"))


def entries(http: httpx2.Client, admin: dict[str, str]) -> list[dict[str, Any]]:
    """Oldest first."""
    found: list[dict[str, Any]] = http.get("/v1/audit", headers=admin).json()["data"]
    return found[::-1]


def test_keys_limits_and_their_makers_are_recorded(
    http: httpx2.Client, admin: dict[str, str]
) -> None:
    wanted = {"owner": "ada", "scopes": ["read"], "holder": ADA, "note": "laptop"}
    made = http.post("/v1/keys", json=wanted, headers=admin).json()
    http.put("/v1/owners/ada", json={"weight": 2.0}, headers=admin)
    http.delete(f"/v1/keys/{made['id']}", headers=admin)

    found = entries(http, admin)

    assert {(one["actor"], one["owner"]) for one in found} == {("Grace", "ada")}
    assert [(one["action"], one["subject"]) for one in found] == [
        ("key.create", made["id"]),
        ("owner.limit", "ada"),
        ("key.revoke", made["id"]),
    ]
    assert found[0]["detail"] == {"scopes": ["read"], "holder": ADA, "note": "laptop"}
    assert found[1]["detail"]["weight"] == 2.0


def test_what_was_deleted_is_recorded_with_the_name_of_the_keys_holder(
    http: httpx2.Client, offered: Database, admin: dict[str, str]
) -> None:
    ada = bearer(held_key(offered))
    sent = {"file": ("a.png", pictures.plain())}
    image = http.post("/v1/images", files=sent, headers=ada).json()["data"][0]["image"]
    job = builders.job(offered)
    builders.complete(offered, builders.claim(offered, builders.session(offered)))
    batch = {"file": ("in.jsonl", b"{}")}
    file = http.post("/v1/files", files=batch, data={"purpose": "batch"}, headers=ada).json()["id"]

    for path in (f"/v1/images/{image}", f"/v1/jobs/{job}", f"/v1/files/{file}"):
        assert http.delete(path, headers=ada).is_success

    found = entries(http, admin)
    assert {(one["actor"], one["owner"]) for one in found} == {(ADA, "ada")}
    assert [(one["action"], one["subject"]) for one in found] == [
        ("image.delete", image),
        ("job.delete", job),
        ("file.delete", file),
    ]


def test_what_was_refused_is_not_recorded(
    http: httpx2.Client, offered: Database, admin: dict[str, str]
) -> None:
    ada = bearer(held_key(offered))
    running = builders.job(offered)

    assert http.delete(f"/v1/jobs/{running}", headers=ada).status_code == 409
    assert http.delete("/v1/keys/none", headers=admin).status_code == 404
    assert http.post("/v1/keys", json={"owner": "eve"}, headers=ada).status_code == 403
    assert entries(http, admin) == []


def test_pages_lead_to_every_entry(http: httpx2.Client, offered: Database) -> None:
    made = held_key(offered, "admin", owner="operator", holder="Grace")
    for number in range(5):
        http.put(f"/v1/owners/o{number}", json={}, headers=bearer(made))

    first = http.get("/v1/audit?limit=2", headers=bearer(made)).json()
    with Client(str(http.base_url), made) as client:
        all_of_them = [entry.owner for entry in client.audit()]

    assert [one["owner"] for one in first["data"]] == ["o4", "o3"]
    assert http.get("/v1/audit?after=bm9uZQ", headers=bearer(made)).status_code == 422
    assert all_of_them == ["o4", "o3", "o2", "o1", "o0"]


def test_the_command_line_of_the_operator_is_recorded_and_exports_the_audit(
    sqlite_url: str,
) -> None:
    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "api", *words],
            env={"IDEFIQ_DATABASE_URL": sqlite_url, "LOGNAME": "root-of-the-machine"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    made = run("keys", "create", "ada", "--holder", ADA)
    for _ in range(2):
        run("grant", "ada", "s3://photos/2026/")
        run("limit", "ada")  # a look, which changes nothing
    rows = list(csv.DictReader(io.StringIO(run("audit", "--csv"))))

    assert [row["action"] for row in rows] == ["bucket.grant", "key.create"]
    assert {row["actor"] for row in rows} == {"root-of-the-machine, on the command line"}
    assert json.loads(rows[1]["detail"])["holder"] == ADA
    assert rows[1]["subject"] in made
    assert "key.create" in run("audit")


class TestReviewers:
    @pytest.fixture
    def draft(self, offered: Database) -> str:
        from tests.played import drafted

        owner = builders.owner(offered)
        defaults = {"kind": "caption", "alt_text": {"page": "/", "role": "informative"}}
        job = builders.job(offered, owner_id=owner, defaults=defaults)
        [lease] = builders.claim(offered, builders.session(offered))
        from db.queue import leases

        with offered.transaction() as transaction:
            leases.complete(transaction, [(lease, drafted("A red square"))])
        return f"/v1/jobs/{job}/items/0/review"

    def test_the_holder_of_the_key_is_the_reviewer_whatever_the_client_says(
        self, http: httpx2.Client, offered: Database, draft: str
    ) -> None:
        headers = bearer(held_key(offered, "review"))
        decision = {"action": "accept", "revision": 0, "reviewer": "the Queen"}

        body = http.post(draft, json=decision, headers=headers).json()

        assert body["reviewer"] == ADA
        [step] = body["history"]
        assert (step["reviewer"], step["stated_reviewer"]) == (ADA, "the Queen")

    def test_a_key_without_a_holder_leaves_the_name_to_the_client(
        self, http: httpx2.Client, offered: Database, draft: str
    ) -> None:
        headers = bearer(held_key(offered, "review", holder=""))
        decision = {"action": "accept", "revision": 0, "reviewer": "bob"}

        body = http.post(draft, json=decision, headers=headers).json()

        assert (body["reviewer"], body["history"][0]["stated_reviewer"]) == ("bob", None)
