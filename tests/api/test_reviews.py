"""Reviews over HTTP: the queue, decisions, conflicts, and the images that they are about."""

from typing import Any

import httpx2
import pytest

from db.images import known_images
from db.queue import leases
from db.sql.database import Database
from tests import pictures
from tests.db import builders
from tests.db.test_reviews import answer


@pytest.fixture
def job_id(http: httpx2.Client, offered: Database) -> str:
    """A job with three drafts, submitted over HTTP and answered."""
    digest = builders.checked_image(offered, builders.owner(offered, "local"))
    items = [
        {"images": [digest], "custom_id": page, "alt_text": {"page": page, "caption": "A caption"}}
        for page in ("b.html", "a.html", "c.html")
    ]
    defaults = {"alt_text": {"target_length": 80, "caption": "overlaid"}}
    made = http.post("/v1/jobs", json={"items": items, "defaults": defaults})
    assert made.status_code == 202, made.text
    taken = builders.claim(offered, builders.session(offered))
    with offered.transaction() as transaction:
        drafts = [answer(f"text of {lease.request['alt_text']['page']}") for lease in taken]
        leases.complete(transaction, list(zip(taken, drafts, strict=True)))
    return str(made.json()["id"])


def decide(
    http: httpx2.Client, job_id: str, index: int, action: str, revision: int, **said: Any
) -> httpx2.Response:
    body = {"action": action, "revision": revision, **said}
    return http.post(f"/v1/jobs/{job_id}/items/{index}/review", json=body)


def test_the_queue_shows_what_a_person_needs_to_judge_a_draft(
    http: httpx2.Client, job_id: str
) -> None:
    page = http.get("/v1/reviews").json()

    assert [one["page"] for one in page["data"]] == ["a.html", "b.html", "c.html"]
    assert (page["has_more"], page["next"]) == (False, None)
    first = page["data"][0]
    assert (first["job"], first["index"], first["custom_id"]) == (job_id, 1, "a.html")
    assert (first["state"], first["text"], first["revision"]) == ("unreviewed", "text of a.html", 0)
    assert first["context"] == {"page": "a.html", "caption": "A caption", "target_length": 80}
    assert first["draft"]["issues"] == []
    assert first["images"] == [builders.IMAGE]


def test_the_queue_is_read_page_by_page_in_either_order(http: httpx2.Client, job_id: str) -> None:
    for order in ("page", "confidence"):
        seen: list[str] = []
        after: dict[str, str] = {}
        while True:
            page = http.get("/v1/reviews", params={"limit": 2, "order": order, **after}).json()
            seen += [one["page"] for one in page["data"]]
            if not page["has_more"]:
                break
            after = {"after": page["next"]}
        assert sorted(seen) == ["a.html", "b.html", "c.html"]


def test_a_cursor_of_one_order_is_none_of_the_other(http: httpx2.Client, job_id: str) -> None:
    cursor = http.get("/v1/reviews", params={"limit": 1, "order": "page"}).json()["next"]

    refused = http.get("/v1/reviews", params={"order": "confidence", "after": cursor})

    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "after"


def test_a_decision_is_taken_once_and_shown_with_its_history(
    http: httpx2.Client, job_id: str
) -> None:
    edited = decide(http, job_id, 0, "edit", 0, text=" Mine ", reviewer="Ada", language="German")
    undone = decide(http, job_id, 0, "undo", 1, reviewer="Bo").json()

    assert edited.status_code == 200
    assert (edited.json()["state"], edited.json()["text"]) == ("edited", "Mine")
    assert (undone["state"], undone["text"], undone["revision"]) == (
        "unreviewed",
        "text of b.html",
        2,
    )
    steps = http.get(f"/v1/jobs/{job_id}/items/0/review").json()["history"]
    assert [(step["action"], step["reviewer"]) for step in steps] == [
        ("edit", "Ada"),
        ("undo", "Bo"),
    ]


def test_the_second_of_two_reviewers_gets_a_conflict(http: httpx2.Client, job_id: str) -> None:
    decide(http, job_id, 0, "accept", 0, reviewer="Ada")

    refused = decide(http, job_id, 0, "reject", 0, reviewer="Bo")

    assert (refused.status_code, refused.json()["code"]) == (409, "review_conflict")
    assert "Ada has decided since you looked" in refused.json()["detail"]
    assert "retry-after" not in refused.headers


def test_a_review_does_not_change_the_answer_of_the_item(http: httpx2.Client, job_id: str) -> None:
    decide(http, job_id, 0, "edit", 0, text="Mine")

    item = http.get(f"/v1/jobs/{job_id}/items/0").json()

    assert item["answer"]["text"] == "text of b.html"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"action": "praise", "revision": 0}, "action"),
        ({"action": "accept"}, "revision"),
        ({"action": "accept", "revision": -1}, "revision"),
        ({"action": "accept", "revision": 0, "text": "Mine"}, "text"),
        ({"action": "edit", "revision": 0}, "text"),
        ({"action": "edit", "revision": 0, "text": "a\0b"}, "text"),
        ({"action": "undo", "revision": 0}, "action"),
        ({"action": "accept", "revision": 0, "color": "red"}, "color"),
    ],
)
def test_a_decision_that_cannot_be_taken_names_why(
    body: dict[str, Any], field: str, http: httpx2.Client, job_id: str
) -> None:
    refused = http.post(f"/v1/jobs/{job_id}/items/0/review", json=body)

    assert refused.status_code == 422
    assert [one["field"] for one in refused.json()["errors"]] == [field]
    assert http.get(f"/v1/jobs/{job_id}/items/0/review").json()["revision"] == 0


def test_an_item_that_is_no_draft_has_no_review(http: httpx2.Client, offered: Database) -> None:
    made = http.post("/v1/jobs", json={"items": [{"images": [builders.IMAGE]}]}).json()["id"]

    assert http.get(f"/v1/jobs/{made}/items/0/review").status_code == 404
    assert decide(http, made, 0, "accept", 0).status_code == 404


def test_alternative_text_with_a_wording_of_ones_own_is_refused(http: httpx2.Client) -> None:
    for field, value in (("prompt", "Say it"), ("template", "{images}Say it")):
        item = {"images": [builders.IMAGE], "alt_text": {}, field: value}

        refused = http.post("/v1/jobs", json={"items": [item]})

        assert refused.status_code == 422
        assert refused.json()["errors"][0]["field"] == f"items.0.{field}"


class TestImages:
    def stored(self, http: httpx2.Client, offered: Database, code: str | None) -> tuple[str, bytes]:
        data = pictures.plain()
        reference = http.post("/v1/images", files={"file": data}).json()["data"][0]["image"]
        owner_id = builders.owner(offered, "local")
        if code:
            verdict = known_images.CheckResult(code, None, "PNG", 8, 6)
            with offered.transaction() as transaction:
                digest = reference.removeprefix("blob:")
                known_images.record_checks(transaction, {(owner_id, digest): verdict})
        return reference, data

    def test_a_checked_image_is_shown_as_it_was_uploaded(
        self, http: httpx2.Client, offered: Database
    ) -> None:
        reference, data = self.stored(http, offered, known_images.OK)

        shown = http.get(f"/v1/images/{reference}")

        assert (shown.status_code, shown.content) == (200, data)
        assert shown.headers["content-type"] == "image/png"
        assert shown.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in shown.headers["content-security-policy"]

    @pytest.mark.parametrize("code", [None, "image_unreadable"])
    def test_what_was_not_found_good_is_not_shown(
        self, code: str | None, http: httpx2.Client, offered: Database
    ) -> None:
        reference, _ = self.stored(http, offered, code)

        assert http.get(f"/v1/images/{reference}").status_code == 404
