"""Names of release 0.1 that this release still reads and sends."""

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import text

import idefiq
from db.queue import leases, rescues
from db.sql.database import Database
from db.vocabulary.model_info import ModelInfo
from idefiq import Client, Result, WaitTimeout
from tests.api.test_reviews import job_id  # noqa: F401 - a fixture
from tests.db import builders
from tests.played import drafted
from tests.served import CARD, Serve


def as_written_by_0_1(database: Database) -> None:
    """Take the new names out of every draft, as release 0.1 wrote them."""
    with database.transaction() as transaction:
        rows = transaction.execute(text("SELECT id, answer FROM items")).all()
        for row in rows:
            answer: dict[str, Any] = (
                json.loads(row.answer) if isinstance(row.answer, str) else row.answer
            )
            told = answer["alt_text"]
            told["objections"], told["certainty"] = told.pop("issues"), told.pop("confidence")
            transaction.execute(
                text("UPDATE items SET answer = :answer WHERE id = :id"),
                {"answer": json.dumps(answer), "id": row.id},
            )


@pytest.mark.usefixtures("job_id")
def test_a_draft_of_release_0_1_is_shown_with_its_issues_and_confidence(
    http: httpx2.Client, offered: Database
) -> None:
    as_written_by_0_1(offered)

    [first, *_] = http.get("/v1/reviews").json()["data"]
    with Client(str(http.base_url)) as client:
        [of_client, *_] = client.reviews()

    assert first["draft"]["issues"] == first["draft"]["objections"] == []
    assert first["draft"]["confidence"] == first["draft"]["certainty"] == 0.9
    assert (of_client.draft["issues"], of_client.draft["confidence"]) == ([], 0.9)


@pytest.mark.usefixtures("job_id")
def test_the_order_confidence_is_accepted_under_its_old_name_doubt(http: httpx2.Client) -> None:
    by_name = [
        http.get("/v1/reviews", params={"order": name}).json()["data"]
        for name in ("doubt", "confidence")
    ]

    assert by_name[0] == by_name[1]


def test_a_model_has_its_license_under_both_names() -> None:
    stored = {**CARD.model_dump(), "licence": "MIT"}
    del stored["license"]

    info = ModelInfo.model_validate(stored)

    assert info.license == "MIT"
    assert info.model_dump()["licence"] == info.model_dump()["license"] == "MIT"


def test_a_service_of_release_0_1_is_understood_by_the_client() -> None:
    card = {**CARD.model_dump(), "licence": "MIT"}
    del card["license"]

    model = idefiq.Model.of({"card": card, "state": "ready", "workers": 1})

    assert model.license == "MIT"
    with pytest.warns(DeprecationWarning, match=r"Model\.license"):
        assert model.licence == "MIT"


def test_old_names_of_the_python_client_warn_and_work() -> None:
    result = Result(0, None, "succeeded", [], "a cat", {"text": "a cat"}, None, None)

    with pytest.warns(DeprecationWarning, match=r"Result\.text"):
        assert result.said == "a cat"
    with pytest.warns(DeprecationWarning, match="WaitTimeout"):
        assert idefiq.TooLong is WaitTimeout
    with pytest.raises(AttributeError, match="'Nothing'"):
        idefiq.Nothing  # noqa: B018 - the access is what is tested


DUMP = Path(__file__).parents[1] / "data" / "release_0_1.sql"


@pytest.fixture
def of_0_1(tmp_path: Path) -> str:
    """A database that release 0.1.0 wrote.

    A job of three drafts: one accepted, one undecided, one running under a session that is dead by
    now. And a job of two questions, one of which failed.
    """
    path = tmp_path / "idefiq.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript(DUMP.read_text())
    return f"sqlite:///{path}"


def test_a_database_of_release_0_1_is_served(of_0_1: str, serve: Serve) -> None:
    http = serve(of_0_1)
    with Client(str(http.base_url)) as client:
        [model] = client.models()
        questions, site = client.jobs()
        answers = list(client.results(questions))
        drafts = list(client.reviews(site, order="doubt"))

    assert (model.name, model.license) == ("echo", "Apache-2.0")
    assert (questions.state, site.state) == ("finished_with_errors", "running")
    assert [(one.text, one.error_code) for one in answers] == [
        ("Ada", None),
        (None, "out_of_memory"),
    ]
    assert [(one.custom_id, one.state, one.draft["confidence"]) for one in drafts] == [
        ("b.html", "unreviewed", 0.75),
        ("a.html", "accepted", 0.5),
    ]
    assert drafts[0].draft["issues"][0]["code"] == "lower_case"


def test_work_of_release_0_1_goes_on(of_0_1: str, serve: Serve) -> None:
    http = serve(of_0_1)
    database = Database(of_0_1)
    with Client(str(http.base_url)) as client:
        questions, site = client.jobs()
        again = client.retry(questions)
        with database.transaction() as transaction:
            rescued = rescues.rescue(transaction, limit=100)
        taken = builders.claim(database, builders.session(database, "w2"))
        with database.transaction() as transaction:
            answers = {"caption": drafted("A red boat."), "vqa": {"text": "Ben"}}
            leases.complete(transaction, [(one, answers[one.request["kind"]]) for one in taken])
        finished = client.job(site.id)
    database.dispose()

    assert rescued == 1
    assert sorted((one.request["kind"], one.claim_number) for one in taken) == [
        ("caption", 2),  # the first claim was that of the dead session
        ("vqa", 1),
    ]
    assert again.counts.total == 1
    assert finished.state == "succeeded"
