"""Who is answered: keys, owners, and web pages that reach for a service on loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from api import errors as api_errors
from api.app import create_app
from api.settings import ApiSettings
from db import owners
from db.images import known_images
from db.queue import sessions
from db.settings import StorageSettings
from db.sql.database import Database
from db.vocabulary import errors
from docs.reference import json_fields
from tests.served import CARD, Serve

IMAGE = "blob:" + "ab" * 32
CHAT = {"model": "echo", "messages": [{"role": "user", "content": "What?"}]}


@pytest.fixture
def keys(offered: Database) -> dict[str, dict[str, str]]:
    """Headers of two owners."""
    made = {}
    for name in ("ada", "eve"):
        with offered.transaction() as transaction:
            key = owners.create_key(transaction, owners.get_or_create(transaction, name))
        made[name] = {"Authorization": f"Bearer {key}"}
    return made


@pytest.fixture
def http(serve: Serve, offered: Database) -> httpx2.Client:
    return serve(offered.url, keys="always")


@pytest.mark.parametrize(
    ("host", "required"),
    [("127.0.0.1", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("::", True)],
)
def test_a_key_is_required_as_soon_as_it_listens_beyond_loopback(host: str, required: bool) -> None:
    assert ApiSettings(host=host).keys_required is required


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer x", "Basic x", "Bearer idq_0_0"])
def test_a_request_without_a_good_key_is_refused(http: httpx2.Client, value: str) -> None:
    response = http.get("/v1/jobs", headers={"Authorization": value})

    assert (response.status_code, response.json()["code"]) == (401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"


def test_health_needs_no_key(http: httpx2.Client) -> None:
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").json()["status"] == "starting"


def test_no_route_shows_or_changes_anything_of_another_owner(
    http: httpx2.Client, keys: dict[str, dict[str, str]]
) -> None:
    body = {"items": [{"images": [IMAGE]}]}
    job = http.post("/v1/jobs", json=body, headers=keys["ada"]).json()["id"]
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": CHAT}
    input_file = {"file": json.dumps(line).encode()}
    file = http.post(
        "/v1/files", data={"purpose": "batch"}, files=input_file, headers=keys["ada"]
    ).json()["id"]
    asked = {"input_file_id": file, "endpoint": line["url"], "completion_window": "24h"}
    batch = http.post("/v1/batches", json=asked, headers=keys["ada"]).json()["id"]
    webhook = http.post(
        "/v1/webhooks", json={"url": "https://example.com/"}, headers=keys["ada"]
    ).json()["id"]
    delivery = f"msg_{job}_{webhook}"
    ids = {"job_id": job, "file_id": file, "batch_id": batch, "webhook_id": webhook}
    schema = http.get("/openapi.json").json()
    tried = 0

    for path, methods in schema["paths"].items():
        if not any(f"{{{name}}}" in path for name in ids):
            continue
        for method in methods:
            url = path.format(**ids, delivery_id=delivery, index=0)
            change: dict[str, object] = {"priority": 1} if "job_id" in path else {"enabled": False}
            decision = {"action": "accept", "revision": 0} if url.endswith("/review") else None
            said = change if method == "patch" else decision if method == "post" else None
            answer = http.request(method, url, json=said, headers=keys["eve"])
            assert answer.status_code == 404, url
            tried += 1

    assert tried >= 24
    assert http.post("/v1/batches", json=asked, headers=keys["eve"]).status_code == 404
    for path in ("/v1/files", "/v1/batches"):
        assert http.get(path, headers=keys["eve"]).json()["data"] == []
    assert http.get("/v1/jobs", headers=keys["eve"]).json()["data"] == []
    assert http.get("/v1/webhooks", headers=keys["eve"]).json() == []
    assert http.get(f"/v1/webhooks/{webhook}", headers=keys["ada"]).json()["enabled"]
    assert http.get(f"/v1/jobs/{job}", headers=keys["ada"]).json()["state"] == "queued"


def test_an_image_of_another_owner_is_not_known(
    http: httpx2.Client, keys: dict[str, dict[str, str]]
) -> None:
    uploaded = http.post("/v1/images", files={"file": b"bytes"}, headers=keys["ada"]).json()
    digest = uploaded["data"][0]["image"].removeprefix("blob:")

    for method in ("GET", "DELETE"):
        refused = http.request(method, f"/v1/images/blob:{digest}", headers=keys["eve"])
        assert refused.status_code == 404
    assert http.get("/v1/reviews", headers=keys["eve"]).json()["data"] == []
    asked = {
        name: http.post("/v1/images/known", json=[digest], headers=headers).json()
        for name, headers in keys.items()
    }

    assert asked == {"ada": [digest], "eve": []}


class TestWithoutKeys:
    @pytest.mark.parametrize(
        "headers",
        [
            {"Host": "evil.example"},
            {"Host": "evil.example:8000"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"X-Forwarded-For": "203.0.113.9"},
            {"Via": "1.1 proxy"},
        ],
    )
    def test_what_a_web_page_could_send_is_refused(
        self, http_sqlite: httpx2.Client, headers: dict[str, str]
    ) -> None:
        response = http_sqlite.get("/v1/jobs", headers=headers)

        assert (response.status_code, response.json()["code"]) == (403, "forbidden")

    def test_a_made_up_key_of_a_foreign_client_is_no_key(self, http_sqlite: httpx2.Client) -> None:
        statuses = [
            http_sqlite.get("/v1/jobs", headers={"Authorization": f"Bearer {key}"}).status_code
            for key in ("none", "sk-123", f"idq_{'0' * 12}_{'0' * 40}")
        ]

        assert statuses == [200, 200, 401]

    def test_requests_of_this_machine_are_answered(self, http_sqlite: httpx2.Client) -> None:
        for headers in ({}, {"Host": "localhost"}, {"Sec-Fetch-Site": "same-origin"}):
            assert http_sqlite.get("/v1/jobs", headers=headers).status_code == 200


def test_every_error_of_a_caller_has_a_status_of_its_own_choice() -> None:
    def all_below(kind: type[errors.IdefiqError]) -> list[type[errors.IdefiqError]]:
        return [kind, *(found for child in kind.__subclasses__() for found in all_below(child))]

    assert set(all_below(errors.RequestError)) <= set(api_errors.STATUS)
    assert errors.StorageError in api_errors.STATUS


def test_no_two_errors_share_a_code() -> None:
    codes = [
        kind.code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.IdefiqError)
    ]

    assert len(codes) == len(set(codes))


def test_the_api_loads_no_torch_and_no_worker(sqlite_url: str) -> None:
    program = (
        "import sys; from api.app import create_app; from api.settings import ApiSettings;"
        "from db.settings import StorageSettings; create_app(StorageSettings(), ApiSettings());"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('torch','transformers','PIL')"
        " or m in ('workers.tasks','workers.loop','workers.intake','workers.engine')))"
    )
    env = {**os.environ, "IDEFIQ_DATABASE_URL": sqlite_url}  # noqa: TID251 - for the process

    output = subprocess.check_output([sys.executable, "-c", program], env=env, text=True)

    assert output.strip() == "[]"


def test_models_are_listed_with_what_they_can_do(
    http: httpx2.Client, keys: dict[str, dict[str, str]]
) -> None:
    [model] = http.get("/v1/models", headers=keys["ada"]).json()["data"]

    assert isinstance(model.pop("created"), int)
    assert model == {
        "id": "echo",
        "object": "model",
        "owned_by": "idefiq",
        "card": CARD.model_dump(mode="json"),
        "state": "offline",
        "workers": 0,
    }


def test_the_openapi_document_is_valid_and_names_the_hand_read_bodies(sqlite_url: str) -> None:
    from openapi_spec_validator import validate

    app = create_app(StorageSettings(database_url=sqlite_url), ApiSettings())
    document = app.openapi()
    app.state.services.database.dispose()

    validate(document)
    assert document["openapi"].startswith("3.1")
    assert {"SubmissionIn", "ItemIn", "JobOut"} <= document["components"]["schemas"].keys()


def test_readiness_needs_a_loaded_model_and_an_intake(
    http_sqlite: httpx2.Client, sqlite_url: str
) -> None:
    from db.vocabulary.states import Stage

    database, told = Database(sqlite_url), []
    for stage in (Stage.GENERATE, Stage.INTAKE):
        told.append(http_sqlite.get("/readyz").status_code)
        with database.transaction() as transaction:
            sessions.start(
                transaction, worker=stage.value, stage=stage, model="echo", lease_seconds=60
            )
    told.append(http_sqlite.get("/readyz").status_code)
    database.dispose()

    assert told == [503, 503, 200]


@pytest.mark.parametrize("program", [["api", "serve"], ["workers", "upkeep"]], ids=str)
@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("IDEFIQ_LEASE_SECONDS", "abc", "IDEFIQ_LEASE_SECONDS: Input should be a valid number"),
        ("IDEFIQ_STORE", "tape", "IDEFIQ_STORE: Input should be 'folder' or 's3'"),
    ],
)
def test_a_setting_that_cannot_be_read_ends_a_process_for_good_with_its_name(
    program: list[str], name: str, value: str, says: str
) -> None:
    env = {**os.environ, name: value}  # noqa: TID251 - for the process

    ended = subprocess.run(
        [sys.executable, "-m", *program], env=env, capture_output=True, text=True, check=False
    )

    assert ended.returncode == 78
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr


class TestOperatorsCommands:
    def run(self, sqlite_url: str, *words: str) -> "subprocess.CompletedProcess[str]":
        env = {**os.environ, "IDEFIQ_DATABASE_URL": sqlite_url}  # noqa: TID251 - for the process
        command = [sys.executable, "-m", "api", *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    def test_a_key_is_made_listed_and_revoked(self, sqlite_url: str, serve: Serve) -> None:
        key = self.run(sqlite_url, "keys", "create", "--owner", "ada").stdout.strip()
        http = serve(sqlite_url, keys="always")
        bearer = {"Authorization": f"Bearer {key}"}

        before = http.get("/v1/jobs", headers=bearer).status_code
        listed = self.run(sqlite_url, "keys", "list").stdout
        self.run(sqlite_url, "keys", "revoke", key.split("_")[1])
        after = http.get("/v1/jobs", headers=bearer).status_code

        assert (before, after) == (200, 401)
        assert "ada" in listed
        assert key.split("_")[2] not in listed

    def test_a_mistake_is_one_line(self, sqlite_url: str) -> None:
        failed = self.run(sqlite_url, "grant", "ada", "photos/2026")

        assert failed.returncode == 2
        assert (
            failed.stderr.strip()
            .splitlines()[-1]
            .startswith("error: invalid prefix: 'photos/2026'")
        )

    def test_a_limit_that_is_not_named_stays_as_it_was(self, sqlite_url: str) -> None:
        self.run(sqlite_url, "limit", "ada", "--weight", "2", "--job-items", "100")

        changed = self.run(sqlite_url, "limit", "ada", "--queued-items", "7")

        assert changed.stdout.strip() == (
            "ada: weight 2.0, max_queued_items 7, max_job_items 100, max_stored_bytes default"
        )

    def test_database_and_store_are_compared(
        self, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("IDEFIQ_STORE_FOLDER", str(tmp_path / "blobs"))
        key = self.run(sqlite_url, "keys", "create").stdout.strip()
        database = Database(sqlite_url)
        with database.transaction() as transaction:
            owner = owners.get_or_create(transaction, "local")
            known_images.add(transaction, owner.id, {"ab" * 32: 8})
        database.dispose()

        found = self.run(sqlite_url, "verify", "--json")
        repaired = self.run(sqlite_url, "verify", "--repair")
        again = self.run(sqlite_url, "verify")

        assert key
        shown = json.loads(found.stdout)
        assert set(shown) == set(json_fields("admin verify"))
        assert (found.returncode, shown["kind"], shown["done"]) == (1, "missing", None)
        assert repaired.returncode == 1
        assert "forgotten: the next upload stores it again" in repaired.stdout
        assert (again.returncode, again.stdout) == (0, "")
        assert "0 differences" in again.stderr

    def test_every_command_prints_json_as_documented(self, sqlite_url: str) -> None:
        def run(*words: str) -> dict[str, Any]:
            printed: dict[str, Any] = json.loads(self.run(sqlite_url, *words, "--json").stdout)
            return printed

        made = run("keys", "create", "ada")
        [listed] = [run("keys", "list")]
        limited = run("limit", "ada", "--job-items", "5")

        assert set(made) == set(json_fields("admin keys create"))
        assert listed == {name: value for name, value in made.items() if name != "key"}
        assert set(limited) == set(json_fields("admin limit"))
        assert (limited["max_job_items"], limited["max_stored_bytes"]) == (5, None)
        assert run("grant", "ada", "s3://photos/") == {"owner": "ada", "prefix": "s3://photos/"}
        assert run("keys", "revoke", made["id"]) == {"id": made["id"], "revoked": True}

    @pytest.mark.parametrize(
        "words",
        [
            ("ada", "--scope", "submit", "--scope", "read"),
            ("--owner", "ada", "--scopes", "submit,read"),  # of release 0.1
        ],
    )
    def test_a_key_gets_the_scopes_that_are_named(
        self, words: tuple[str, ...], sqlite_url: str
    ) -> None:
        self.run(sqlite_url, "keys", "create", *words)

        listed = self.run(sqlite_url, "keys", "list").stdout.split()
        assert listed[1] == "ada"
        assert sorted(listed[2].split(",")) == ["read", "submit"]
