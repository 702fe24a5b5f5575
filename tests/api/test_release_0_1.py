"""Names of release 0.1 that this release still reads and sends."""

import json
from typing import Any

import httpx2
import pytest
from sqlalchemy import text

import idefiq
from db.database import Database
from db.model_info import ModelInfo
from idefiq import Client, Result, WaitTimeout
from tests.api.test_reviews import job_id  # noqa: F401 - a fixture
from tests.served import CARD


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
def test_the_order_of_reviews_by_confidence_may_be_called_doubt(http: httpx2.Client) -> None:
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


def test_old_names_of_the_python_client_warn_and_work() -> None:
    result = Result(0, None, "succeeded", [], "a cat", {"text": "a cat"}, None, None)

    with pytest.warns(DeprecationWarning, match=r"Result\.text"):
        assert result.said == "a cat"
    with pytest.warns(DeprecationWarning, match="WaitTimeout"):
        assert idefiq.TooLong is WaitTimeout
    with pytest.raises(AttributeError, match="'Nothing'"):
        idefiq.Nothing  # noqa: B018 - the access is what is tested
