"""Issues of answers over HTTP: in jobs, as a filter of results, and in retries."""

from typing import Any

import httpx2
import pytest
from sqlalchemy import text

from db import owners
from db.queue import leases
from db.sql.database import Database
from tests.db import builders
from tests.played import answer
from tests.served import Serve

ITEMS = [{"prompt": f"number {n}", "images": [builders.IMAGE]} for n in range(30)]
BODY = {"items": ITEMS[:3]}
JSONL = {"Accept": "application/x-ndjson"}


def answered(http: httpx2.Client, database: Database, *issues: list[str], **body: Any) -> str:
    """A finished job with an answer for each list of issues. Returns its path."""
    builders.checked_image(database, builders.owner(database, owners.LOCAL_OWNER))
    made = http.post("/v1/jobs", json={**BODY, **body})
    assert made.status_code == 202, made.text
    taken = builders.claim(database, builders.session(database))
    with database.transaction() as transaction:
        leases.complete(
            transaction,
            [
                (lease, {**answer("seen"), "prompt_tokens": 500_000, "issues": found})
                for lease, found in zip(taken, issues, strict=True)
            ],
            {lease.item_id: 0.5 for lease in taken},
        )
    return f"/v1/jobs/{made.json()['id']}"


def test_a_job_says_its_issues_and_what_it_has_used_and_cost(
    serve: Serve, offered: Database
) -> None:
    prices = {"echo": {"item": 0.1, "million_prompt_tokens": 2.0}}
    http = serve(offered.url, prices=prices, currency="EUR")

    job = http.get(answered(http, offered, ["cut"], [], ["cut", "empty"])).json()

    assert (job["answers_with_issues"], job["issues"]) == (2, {"cut": 2, "empty": 1})
    assert job["usage"] == {
        "cached": 0,
        "images": 3,
        "prompt_tokens": 1_500_000,
        "completion_tokens": 6,
        "device_seconds": 1.5,
        "cost": pytest.approx(3.3),
        "currency": "EUR",
    }


def test_a_job_without_prices_has_no_cost(http_sqlite: httpx2.Client) -> None:
    job = http_sqlite.post("/v1/jobs", json=BODY).json()

    assert job["usage"]["cost"] is None
    assert (job["pause_reason"], job["pause_on_issues"], job["issues"]) == (None, None, {})


def test_results_and_their_file_can_be_those_with_an_issue(
    http: httpx2.Client, offered: Database
) -> None:
    path = answered(http, offered, ["cut"], [], ["cut", "empty"])

    page = http.get(f"{path}/results", params={"issue": "empty"}).json()
    stream = http.get(f"{path}/results", params={"issue": ["any"]}, headers=JSONL)
    file = http.get(f"{path}/results.jsonl", params={"issue": ["empty", "cut"]})

    assert [one["index"] for one in page["data"]] == [2]
    assert page["data"][0]["answer"]["issues"] == ["cut", "empty"]
    assert page["complete"] is True
    assert len(stream.text.splitlines()) == len(file.text.splitlines()) == 2


def test_an_issue_that_there_is_not_is_refused_with_those_that_there_are(
    http_sqlite: httpx2.Client,
) -> None:
    made = http_sqlite.post("/v1/jobs", json=BODY).json()["id"]

    for verb, path in (("GET", "results"), ("GET", "results.jsonl"), ("POST", "retry")):
        refused = http_sqlite.request(verb, f"/v1/jobs/{made}/{path}?issue=boring")

        assert refused.status_code == 422
        assert "'repetition'" in refused.json()["detail"]


def test_a_filter_of_very_many_issues_is_refused(http_sqlite: httpx2.Client) -> None:
    made = http_sqlite.post("/v1/jobs", json=BODY).json()["id"]

    refused = http_sqlite.get(f"/v1/jobs/{made}/results", params={"issue": ["cut"] * 1_100})

    assert refused.status_code == 422


def test_a_job_that_an_older_release_has_worked_for_has_no_cost(
    serve: Serve, offered: Database
) -> None:
    http = serve(offered.url, prices={"*": {"item": 1.0}})
    path = answered(http, offered, [], [], [])
    with offered.transaction() as transaction:  # as the migration leaves it
        transaction.execute(text("UPDATE jobs SET device_seconds = NULL"))

    usage = http.get(path).json()["usage"]

    assert (usage["cost"], usage["device_seconds"]) == (None, None)


def test_answers_with_an_issue_are_retried_with_other_options_and_sampling(
    http: httpx2.Client, offered: Database
) -> None:
    path = answered(http, offered, ["cut"], [], ["repetition"])

    again = http.post(f"{path}/retry?issue=repetition", json={"options": {"temperature": 0.7}})

    assert (again.status_code, again.json()["counts"]["total"]) == (202, 1)
    item = http.get(f"/v1/jobs/{again.json()['id']}/items/0").json()
    assert item["request"]["prompt"] == "number 2"
    assert item["request"]["options"] == {"temperature": 0.7, "do_sample": True}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"options": {"temperature": 0}}, "options.temperature"),
        ({"options": {"max_new_tokens": 30_000}}, "options.max_new_tokens"),
        ({"options": {"temperature": 0.5, "num_beams": 4}}, "options.num_beams"),
        ({"prompt": "other"}, "prompt"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name_and_nothing_is_retried(
    http: httpx2.Client, offered: Database, body: dict[str, Any], field: str
) -> None:
    path = answered(http, offered, ["cut"], [], [])

    refused = http.post(f"{path}/retry?issue=cut", json=body)

    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field)
    assert len(http.get("/v1/jobs").json()["data"]) == 1


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, "half"])
def test_a_share_to_pause_at_is_from_zero_to_less_than_one(
    http_sqlite: httpx2.Client, share: object
) -> None:
    refused = http_sqlite.post("/v1/jobs", json={**BODY, "pause_on_issues": share})

    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "pause_on_issues"


def test_a_job_that_has_paused_itself_says_why_and_goes_on_when_it_is_resumed(
    http: httpx2.Client, offered: Database
) -> None:
    builders.checked_image(offered, builders.owner(offered, owners.LOCAL_OWNER))
    made = http.post("/v1/jobs", json={"items": ITEMS, "pause_on_issues": 0.5}).json()
    taken = builders.claim(offered, builders.session(offered), limit=20)
    with offered.transaction() as transaction:
        answers = [(lease, {**answer(""), "issues": ["empty"]}) for lease in taken]
        leases.complete(transaction, answers)

    paused = http.get(f"/v1/jobs/{made['id']}").json()
    resumed = http.post(f"/v1/jobs/{made['id']}/resume").json()

    assert (paused["state"], paused["pause_reason"]) == ("paused", "issues")
    assert (resumed["state"], resumed["pause_on_issues"]) == ("running", None)
