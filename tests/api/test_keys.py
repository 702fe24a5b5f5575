"""Keys: what each may do, who made it, and how it ends."""

from typing import Any

import httpx2
import pytest
from sqlalchemy import text

from db import owners
from db.sql.database import Database
from idefiq import ApiError, Client
from tests.served import Serve


def key(database: Database, *scopes: str, owner: str = "ada") -> dict[str, str]:
    with database.transaction() as transaction:
        found = owners.get_or_create(transaction, owner)
        made = owners.create_key(transaction, found, scopes=scopes or owners.USUAL_SCOPES)
    return {"Authorization": f"Bearer {made}"}


@pytest.fixture
def http(serve: Serve, offered: Database) -> httpx2.Client:
    return serve(offered.url, keys="always")


def routes(http: httpx2.Client) -> list[tuple[str, str]]:
    """Every route that needs a key, with something in place of its ids."""
    document = http.get("/openapi.json").json()
    names = {"index": 0, **dict.fromkeys(("job_id", "file_id", "batch_id", "webhook_id"), "none")}
    names |= dict.fromkeys(("delivery_id", "key_id", "owner", "name"), "none")
    names["image"] = "blob:" + "0" * 64
    return [
        (method.upper(), path.format(**names))
        for path, methods in document["paths"].items()
        if path.startswith("/v1")
        for method in methods
    ]


def needed_for(method: str, path: str) -> set[str]:
    """Scopes of which a key needs one."""
    if path.startswith(("/v1/keys", "/v1/owners", "/v1/usage/all", "/v1/audit")):
        return {"admin"}
    if path == "/v1/queue":
        return {"metrics", "admin"}
    of_drafts = path.startswith("/v1/reviews") or path.endswith("/review")
    if method == "GET" and (of_drafts or path.startswith("/v1/images/")):
        return {"read", "review"}
    if of_drafts:
        return {"review"}
    return {"read"} if method == "GET" else {"submit"}


def test_no_route_answers_a_key_without_the_scope_it_needs(
    http: httpx2.Client, offered: Database
) -> None:
    headers = {scope: key(offered, scope) for scope in owners.Scope}

    for method, path in routes(http):
        needed = needed_for(method, path)
        answers = {
            scope: http.request(method, path, headers=header).status_code
            for scope, header in headers.items()
        }
        refused = {scope for scope, status in answers.items() if status == 403}
        assert refused == set(owners.Scope) - needed, (method, path, answers)


def test_a_refusal_names_the_scope_that_is_missing(http: httpx2.Client, offered: Database) -> None:
    refused = http.post("/v1/jobs", json={"items": []}, headers=key(offered, "read")).json()

    assert refused["code"] == "forbidden"
    assert refused["detail"] == "requires a key with the scope submit; this one has read"


def test_an_operator_makes_lists_and_revokes_keys_of_others(
    http: httpx2.Client, offered: Database
) -> None:
    admin = key(offered, "admin", owner="ops")
    wanted = {"owner": "eve", "note": "laptop", "scopes": ["read"], "days": 30}
    made = http.post("/v1/keys", json=wanted, headers=admin).json()
    bearer = {"Authorization": f"Bearer {made['key']}"}

    statuses = [http.get("/v1/jobs", headers=bearer).status_code]
    listed = http.get("/v1/keys", headers=admin).json()
    http.delete(f"/v1/keys/{made['id']}", headers=admin)
    statuses.append(http.get("/v1/jobs", headers=bearer).status_code)
    again = http.delete(f"/v1/keys/{made['id']}", headers=admin).status_code

    [shown] = [one for one in listed if one["owner"] == "eve"]
    assert (shown["note"], shown["scopes"], shown["id"]) == ("laptop", ["read"], made["id"])
    assert made["key"].split("_")[2] not in str(listed)
    assert shown["last_used_at"] is not None
    assert (statuses, again) == ([200, 401], 404)


def test_two_keys_of_an_owner_are_alive_at_once_so_that_one_can_replace_the_other(
    http: httpx2.Client, offered: Database
) -> None:
    old, new = key(offered), key(offered)

    assert [http.get("/v1/jobs", headers=one).status_code for one in (old, new)] == [200, 200]


def test_a_use_is_noted_once_a_minute_and_not_with_every_request(
    http: httpx2.Client, offered: Database
) -> None:
    bearer = key(offered)

    def used() -> Any:
        http.get("/v1/jobs", headers=bearer)
        with offered.snapshot() as transaction:
            return owners.keys(transaction)[0].last_used_at

    first, second = used(), used()
    with offered.transaction() as transaction:
        transaction.execute(text("UPDATE api_keys SET last_used_at = '2000-01-01 00:00:00.000000'"))
    third = used()

    assert first == second < third


def test_an_expired_key_is_none(http: httpx2.Client, offered: Database) -> None:
    bearer = key(offered)
    with offered.transaction() as transaction:
        transaction.execute(text("UPDATE api_keys SET expires_at = '2000-01-01 00:00:00.000000'"))

    assert http.get("/v1/jobs", headers=bearer).status_code == 401


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"owner": "Eve!"}, "owner"),
        ({"scopes": ["all"]}, "scopes.0"),
        ({"scopes": []}, "scopes"),
        ({"days": 0}, "days"),
        ({"color": "red"}, "color"),
    ],
)
def test_a_key_that_cannot_be_made_names_why(
    change: dict[str, Any], field: str, http: httpx2.Client, offered: Database
) -> None:
    admin = key(offered, "admin")

    refused = http.post("/v1/keys", json={"owner": "eve", **change}, headers=admin)

    assert refused.status_code == 422
    assert [one["field"] for one in refused.json()["errors"]] == [field]


def test_an_operator_sees_and_sets_what_an_owner_gets(
    http: httpx2.Client, offered: Database
) -> None:
    admin = key(offered, "admin", owner="ops")
    limits = {"weight": 2.5, "max_queued_items": 7, "max_job_items": None, "max_stored_bytes": 0}

    unknown = http.get("/v1/owners/new", headers=admin).status_code
    http.put("/v1/owners/new", json=limits, headers=admin)
    shown = http.get("/v1/owners/new", headers=admin).json()

    assert unknown == 404
    assert shown == {"owner": "new", "limits": limits, "queued_items": 0, "stored_bytes": 0}


def test_the_client_makes_lists_and_revokes_keys(http: httpx2.Client, offered: Database) -> None:
    admin = key(offered, "admin", owner="ops")["Authorization"].removeprefix("Bearer ")

    with Client(str(http.base_url), admin) as client:
        made = client.create_api_key("eve", note="ci", scopes=["submit"], days=1)
        before = [one.id for one in client.api_keys() if not one.revoked_at]
        client.revoke_api_key(made.id)
        after = [one.id for one in client.api_keys() if not one.revoked_at]

    with Client(str(http.base_url), made.key) as client, pytest.raises(ApiError) as refused:
        client.submit([], model="echo")
    assert set(before) - set(after) == {made.id}
    assert refused.value.status == 401


def test_keys_are_compared_in_constant_time_and_stored_as_digests(offered: Database) -> None:
    bearer = key(offered)["Authorization"]

    with offered.snapshot() as transaction:
        stored = transaction.execute(text("SELECT secret_hash FROM api_keys")).scalars().all()

    assert all(len(digest) == 64 and digest not in bearer for digest in stored)
