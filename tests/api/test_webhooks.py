"""Webhooks as their owner sees them; tests/workers/upkeep/test_webhooks.py delivers them."""

from typing import Any

import httpx2
import pytest

from db import owners
from db.sql.database import Database
from db.webhooks import endpoints, outbox
from tests.db import builders
from tests.served import Serve

URL = "https://example.com/told"


def test_a_secret_is_shown_when_it_is_made_and_never_again(http: httpx2.Client) -> None:
    made = http.post("/v1/webhooks", json={"url": URL}).json()
    listed = http.get("/v1/webhooks").json()
    one = http.get(f"/v1/webhooks/{made['id']}").json()
    rotated = http.post(f"/v1/webhooks/{made['id']}/rotate").json()

    assert made["secret"].startswith("whsec_")
    assert made["events"] == list(endpoints.EVENTS)
    assert listed == [one]
    assert "secret" not in one
    assert rotated["secret"] not in ("", made["secret"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"url": "ftp://example.com/"}, "url"),
        ({"url": "/told"}, "url"),
        ({"url": "http://127.0.0.1/told"}, "url"),
        ({"url": "http://[::1]/told"}, "url"),
        ({"url": "https://localhost/told"}, "url"),
        ({"url": "https://a.LOCALHOST./told"}, "url"),
        ({"url": "https://10.1.2.3/told"}, "url"),
        ({"url": "https://example.com:8443/told"}, "url"),
        ({"url": "https://user:password@example.com/told"}, "url"),
        ({"url": URL, "events": ["job.started"]}, "events.0"),
        ({"url": URL, "secret": "mine"}, "secret"),
        ({}, "url"),
    ],
)
def test_a_webhook_that_cannot_be_made_names_why(
    body: dict[str, Any], field: str, http_sqlite: httpx2.Client
) -> None:
    refused = http_sqlite.post("/v1/webhooks", json=body)

    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == field


def test_a_private_address_is_taken_if_its_network_and_port_are_allowed(
    serve: Serve, sqlite_url: str
) -> None:
    http = serve(sqlite_url, webhook_networks=["10.0.0.0/8"], webhook_ports=[8443])

    statuses = [
        http.post("/v1/webhooks", json={"url": f"https://{place}/told"}).status_code
        for place in ("10.1.2.3:8443", "10.1.2.3", "192.168.0.1:8443")
    ]

    assert statuses == [201, 422, 422]


def test_an_owner_has_at_most_twenty(http_sqlite: httpx2.Client) -> None:
    statuses = [http_sqlite.post("/v1/webhooks", json={"url": URL}).status_code for _ in range(21)]

    assert statuses == [201] * 20 + [422]


def test_deliveries_of_a_webhook_are_listed_and_can_be_sent_again(
    http: httpx2.Client, offered: Database
) -> None:
    webhook = http.post("/v1/webhooks", json={"url": URL}).json()["id"]
    with offered.transaction() as transaction:
        owner_id = owners.get_or_create(transaction, owners.LOCAL_OWNER).id
    for _ in range(3):
        builders.job(offered, owner_id=owner_id)
    builders.complete(offered, builders.claim(offered, builders.session(offered)))
    with offered.transaction() as transaction:
        while taken := outbox.take_due(transaction, 10):
            for delivery, _ in taken:
                outbox.delivered(transaction, delivery.id, 200)

    path = f"/v1/webhooks/{webhook}/deliveries"
    first = http.get(path, params={"limit": 2}).json()
    second = http.get(path, params={"limit": 2, "after": first["next"]}).json()
    again = http.post(f"{path}/{first['data'][0]['id']}/redeliver").json()
    unknown = http.post(f"{path}/msg_none/redeliver").status_code

    assert [one["status"] for one in first["data"] + second["data"]] == [200] * 3
    assert (first["has_more"], second["has_more"]) == (True, False)
    assert (again["attempts"], again["delivered_at"]) == (0, None)
    assert unknown == 404


def test_a_webhook_is_disabled_enabled_and_deleted(http: httpx2.Client) -> None:
    path = f"/v1/webhooks/{http.post('/v1/webhooks', json={'url': URL}).json()['id']}"

    stopped = http.patch(path, json={"enabled": False}).json()["enabled"]
    started = http.patch(path, json={"enabled": True}).json()["enabled"]
    gone = [http.delete(path).status_code, http.get(path).status_code]

    assert (stopped, started, gone) == (False, True, [204, 404])
