"""Usage over HTTP, in Python and on the command line."""

import csv
import io
import json
from datetime import UTC, date, datetime, timedelta

import httpx2
import pytest
from typer.testing import CliRunner

from db import owners
from db.queue import usage
from db.queue.usage import Amounts
from db.sql.database import Database
from idefiq import ApiError, Client
from idefiq.cli import app
from tests.api.test_keys import key
from tests.db import builders
from tests.served import Serve

PRICES = {"echo": {"item": 0.01, "million_completion_tokens": 100.0}}


def use(database: Database, owner: str, tokens: int) -> None:
    """Let an owner have used something today."""
    builders.job(database, owner_id=builders.owner(database, owner))
    [lease] = builders.claim(database, builders.session(database, f"of {owner}"))
    with database.transaction() as transaction:
        usage.add(transaction, [(lease, Amounts(items=1, completion_tokens=tokens))])


@pytest.fixture
def http(serve: Serve, offered: Database) -> httpx2.Client:
    use(offered, owners.LOCAL_OWNER, 1_000)
    use(offered, "bob", 2_000)
    return serve(offered.url, prices=PRICES, currency="EUR")


def test_usage_has_a_row_for_each_day_and_model_with_its_cost(http: httpx2.Client) -> None:
    body = http.get("/v1/usage").json()

    [row] = body["data"]
    assert (row["owner"], row["model"], row["items"]) == ("local", "echo", 1)
    today = datetime.now(UTC).date()
    assert today - timedelta(days=1) <= date.fromisoformat(row["day"]) <= today
    assert (row["cost"], body["currency"]) == (pytest.approx(0.01 + 0.1), "EUR")


def test_days_without_usage_have_no_rows(http: httpx2.Client) -> None:
    assert http.get("/v1/usage", params={"to": "2020-01-31"}).json()["data"] == []


def test_a_day_that_is_none_is_refused_by_name(http: httpx2.Client) -> None:
    refused = http.get("/v1/usage", params={"from": "yesterday"})

    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "from")


@pytest.mark.parametrize(
    ("first", "last"),
    [("2026-11-30", "2026-11-01"), ("2020-01-01", "2026-11-01"), ("9000-01-01", None)],
)
def test_days_that_end_before_they_begin_or_are_too_many_are_refused(
    http: httpx2.Client, first: str, last: str | None
) -> None:
    refused = http.get("/v1/usage", params={"from": first, **({"to": last} if last else {})})

    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "from")
    assert "ask for 1 to 400 days" in refused.json()["detail"]


def test_the_first_days_of_the_calendar_are_no_error(http: httpx2.Client) -> None:
    assert http.get("/v1/usage", params={"to": "0001-01-05"}).status_code == 422


def test_usage_without_prices_has_no_cost(serve: Serve, offered: Database) -> None:
    use(offered, owners.LOCAL_OWNER, 1)

    assert serve(offered.url).get("/v1/usage").json()["data"][0]["cost"] is None


def test_only_an_operator_sees_the_usage_of_all(serve: Serve, offered: Database) -> None:
    use(offered, "ada", 1)
    use(offered, "bob", 2)
    http = serve(offered.url, keys="always")

    of_all = http.get("/v1/usage/all", headers=key(offered, "admin"))
    told = csv.DictReader(
        io.StringIO(http.get("/v1/usage/all?format=csv", headers=key(offered, "admin")).text)
    )

    assert [row["owner"] for row in of_all.json()["data"]] == ["ada", "bob"]
    assert [row["completion_tokens"] for row in told] == ["1", "2"]
    assert http.get("/v1/usage/all", headers=key(offered, "read")).status_code == 403


def test_the_client_returns_usage_and_refuses_what_is_not_allowed(http: httpx2.Client) -> None:
    with Client(str(http.base_url)) as client:
        [one] = client.usage().days

        assert (one.model, one.completion_tokens) == ("echo", 1_000)
        with pytest.raises(ApiError, match="admin"):
            client.usage(all_owners=True)


def test_stored_bytes_have_a_row_of_their_own_without_a_model(
    serve: Serve, offered: Database
) -> None:
    use(offered, owners.LOCAL_OWNER, 1)
    with offered.transaction() as transaction:
        usage.sample_stored(transaction)
    http = serve(offered.url)

    of_model, of_store = http.get("/v1/usage").json()["data"]
    [_, told] = csv.DictReader(io.StringIO(http.get("/v1/usage?format=csv").text))
    shown = CliRunner().invoke(app, ["usage", "--url", str(http.base_url)])

    assert (of_model["model"], of_model["stored_bytes"]) == ("echo", None)
    assert (of_store["model"], of_store["stored_bytes"], of_store["items"]) == ("", 10, 0)
    assert (told["model"], told["stored_bytes"]) == ("", "10")
    assert shown.stdout.splitlines()[-1].split()[-1] == "10"


@pytest.mark.parametrize("form", ["", "--json", "--csv"])
def test_the_command_prints_a_table_json_or_csv(http: httpx2.Client, form: str) -> None:
    words = ["usage", "--url", str(http.base_url), *filter(None, [form])]
    shown = CliRunner().invoke(app, words)

    assert shown.exit_code == 0, shown.output
    if form == "--json":
        assert json.loads(shown.stdout)["completion_tokens"] == 1_000
    elif form == "--csv":
        [row] = csv.DictReader(io.StringIO(shown.stdout))
        assert row["completion_tokens"] == "1000"
    else:
        assert "1,000" in shown.stdout
