"""Reviews: drafts queue up, people decide, and every step is kept."""

import threading
from typing import Any

import pytest
from sqlalchemy import text

from db import reviews
from db.queue import leases, retention
from db.queue.submissions import NewItem, NewJob
from db.reviews import Action, Decision, Order, Review, ReviewState
from db.sql.database import Database
from db.vocabulary.errors import NotFound, RequestError, ReviewConflict
from tests.db import builders


def answer(said: str, certainty: float = 0.9) -> dict[str, Any]:
    """An answer as families/alttext.py gives it."""
    told = {"issues": [], "rewritten": False, "confidence": certainty, "language": "English"}
    return {"text": said, "alt_text": told}


def drafted(
    database: Database, *drafts: tuple[str, float], owner: str = "ada", role: str = "informative"
) -> str:
    """A job with an answered item for each page and certainty."""
    owner_id = builders.owner(database, owner)
    image = builders.checked_image(database, owner_id)
    new = [
        NewItem({"images": [image], "alt_text": {"page": page, "role": role}}) for page, _ in drafts
    ]
    with database.transaction() as transaction:
        job_id = builders.submit(transaction, NewJob(owner_id, builders.MODEL, {}), new)
    taken = builders.claim(database, builders.session(database))
    answers = [
        (lease, answer(f"text of {page}", certainty))
        for lease, (page, certainty) in zip(taken, drafts, strict=True)
    ]
    with database.transaction() as transaction:
        leases.complete(transaction, answers)
    return job_id


def decide(database: Database, job_id: str, action: str, revision: int, **said: Any) -> Review:
    decision = Decision(Action(action), revision, reviewer=said.pop("by", "bo"), **said)
    owner_id = builders.owner(database)
    with database.transaction() as transaction:
        return reviews.decide(transaction, owner_id, job_id, 0, decision)


def queue(database: Database, owner: str = "ada", **asked: Any) -> list[Review]:
    wanted: dict[str, Any] = {"order": Order.PAGE, "states": (), "job_id": None, "custom_ids": ()}
    wanted |= {"beyond": None, "limit": 100}
    owner_id = builders.owner(database, owner)
    with database.snapshot() as transaction:
        return reviews.page(transaction, owner_id, **{**wanted, **asked})


class TestTheQueue:
    def test_a_draft_is_queued_in_the_transaction_that_answers_its_item(
        self, database: Database
    ) -> None:
        job_id = drafted(database, ("a.html", 0.5))

        [found] = queue(database)

        assert (found.job_id, found.page, found.confidence) == (job_id, "a.html", 0.5)
        assert found.content.state is ReviewState.UNREVIEWED
        assert (found.content.text, found.content.language) == ("text of a.html", "English")

    def test_an_answer_that_is_no_alternative_text_is_not_queued(self, database: Database) -> None:
        builders.job(database)
        taken = builders.claim(database, builders.session(database))

        builders.complete(database, taken)

        assert queue(database) == []

    def test_an_answer_of_a_stale_worker_queues_nothing(self, database: Database) -> None:
        drafted(database, ("a.html", 0.5))
        owner_id = builders.owner(database)
        item = NewItem({"images": [builders.IMAGE], "alt_text": {}})
        with database.transaction() as transaction:
            builders.submit(transaction, NewJob(owner_id, builders.MODEL, {}), [item])
        stale = builders.claim(database, builders.session(database))
        with database.transaction() as transaction:
            leases.release(transaction, stale)

        with database.transaction() as transaction:
            ours = leases.complete(transaction, [(stale[0], answer("late"))])

        assert ours == set()
        assert len(queue(database)) == 1

    def test_the_undecided_come_first_and_then_pages_in_order(self, database: Database) -> None:
        job_id = drafted(database, ("b.html", 0.1), ("c.html", 0.9), ("a.html", 0.5))
        decide(database, job_id, "accept", 0)

        assert [one.page for one in queue(database)] == ["a.html", "c.html", "b.html"]

    def test_or_the_least_certain(self, database: Database) -> None:
        drafted(database, ("b.html", 0.9), ("c.html", 0.1), ("a.html", 0.5))

        found = queue(database, order=Order.CONFIDENCE)

        assert [one.page for one in found] == ["c.html", "a.html", "b.html"]

    @pytest.mark.parametrize("order", list(Order))
    def test_pages_of_the_queue_miss_none_and_repeat_none(
        self, order: Order, database: Database
    ) -> None:
        job_id = drafted(database, *[(f"{n % 3}.html", n % 4 / 4) for n in range(10)])
        decide(database, job_id, "accept", 0)
        whole = queue(database, order=order)

        seen: list[Review] = []
        while page := queue(
            database,
            order=order,
            limit=3,
            beyond=reviews.position(seen[-1], order) if seen else None,
        ):
            seen += page

        assert seen == whole
        assert len(seen) == 10

    def test_it_can_be_narrowed_to_a_job_and_to_states(self, database: Database) -> None:
        first = drafted(database, ("a.html", 0.5))
        drafted(database, ("b.html", 0.5))
        decide(database, first, "reject", 0)

        assert [one.page for one in queue(database, job_id=first)] == ["a.html"]
        assert queue(database, custom_ids=["another"]) == []
        rejected = queue(database, states=[ReviewState.REJECTED])
        assert [one.page for one in rejected] == ["a.html"]

    def test_reviews_of_another_owner_or_of_a_deleted_job_are_hidden(
        self, database: Database
    ) -> None:
        job_id = drafted(database, ("a.html", 0.5))
        owner_id = builders.owner(database)
        with database.transaction() as transaction:
            retention.soft_delete_job(transaction, owner_id, job_id)

        assert queue(database, "eve") == []
        assert queue(database) == []
        with database.transaction() as transaction, pytest.raises(NotFound):
            reviews.get(transaction, owner_id, job_id, 0)

    def test_the_longest_name_of_a_page_can_be_queued(self, database: Database) -> None:
        page = "".join(chr(0x4E00 + n * 37 % 20_000) for n in range(500))

        drafted(database, (page, 0.5))

        assert queue(database)[0].page == page

    def test_they_go_with_the_items_of_their_job(self, database: Database) -> None:
        job_id = drafted(database, ("a.html", 0.5))
        decide(database, job_id, "accept", 0)
        owner_id = builders.owner(database)
        with database.transaction() as transaction:
            retention.soft_delete_job(transaction, owner_id, job_id)
            retention.purge_items(transaction, job_id, 10)
            retention.purge_job(transaction, job_id)

        with database.snapshot() as transaction:
            left = [
                transaction.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()
                for table in ("jobs", "items", "reviews", "review_steps")
            ]
        assert left == [0, 0, 0, 0]


class TestDecisions:
    @pytest.mark.parametrize(
        ("action", "said", "state", "expected"),
        [
            ("accept", {}, "accepted", "text of a.html"),
            ("edit", {"text": "Mine", "language": "German"}, "edited", "Mine"),
            ("decorative", {}, "decorative", ""),
            ("reject", {}, "rejected", "text of a.html"),
        ],
    )
    def test_a_decision_is_kept_with_who_and_when(
        self, action: str, said: dict[str, Any], state: str, expected: str, database: Database
    ) -> None:
        job_id = drafted(database, ("a.html", 0.5))

        after = decide(database, job_id, action, 0, by="cy", **said)

        assert (after.content.state, after.content.text) == (state, expected)
        assert (after.revision, after.reviewer) == (1, "cy")
        assert after.reviewed_at is not None
        with database.snapshot() as transaction:
            [step] = reviews.history(transaction, after)
        assert (step.action, step.reviewer, step.content.state) == (action, "cy", state)

    def test_the_answer_itself_never_changes(self, database: Database) -> None:
        job_id = drafted(database, ("a.html", 0.5))

        after = decide(database, job_id, "edit", 0, text="Mine")

        assert after.answer == answer("text of a.html", 0.5)

    def test_accepting_after_an_edit_keeps_the_edited_text(self, database: Database) -> None:
        job_id = drafted(database, ("a.html", 0.5))
        decide(database, job_id, "edit", 0, text="Mine")

        after = decide(database, job_id, "accept", 1)

        assert (after.content.state, after.content.text) == ("accepted", "Mine")

    def test_accepting_what_was_called_decorative_takes_the_draft(self, database: Database) -> None:
        job_id = drafted(database, ("a.html", 0.5))
        decide(database, job_id, "decorative", 0)

        assert decide(database, job_id, "accept", 1).content.text == "text of a.html"

    def test_undo_goes_back_step_by_step_to_the_draft(self, database: Database) -> None:
        job_id = drafted(database, ("a.html", 0.5))
        decide(database, job_id, "edit", 0, text="First")
        decide(database, job_id, "edit", 1, text="Second")

        shown = [decide(database, job_id, "undo", revision).content for revision in (2, 3)]

        assert [(one.state, one.text) for one in shown] == [
            ("edited", "First"),
            ("unreviewed", "text of a.html"),
        ]
        assert [one.page for one in queue(database, states=[ReviewState.UNREVIEWED])] == ["a.html"]
        with pytest.raises(RequestError, match="nothing to undo"):
            decide(database, job_id, "undo", 4)

    def test_what_was_decided_after_an_undo_is_undone_to_where_that_led(
        self, database: Database
    ) -> None:
        job_id = drafted(database, ("a.html", 0.5))
        decide(database, job_id, "edit", 0, text="First")
        decide(database, job_id, "undo", 1)
        decide(database, job_id, "reject", 2)

        after = decide(database, job_id, "undo", 3)

        assert (after.content.state, after.content.text) == ("unreviewed", "text of a.html")

    def test_undoing_a_draft_is_refused(self, database: Database) -> None:
        job_id = drafted(database, ("a.html", 0.5))

        with pytest.raises(RequestError, match="nothing to undo"):
            decide(database, job_id, "undo", 0)

    @pytest.mark.parametrize("action", list(Action))
    @pytest.mark.parametrize("revision", [0, 7])
    def test_a_decision_about_another_revision_changes_nothing(
        self, action: Action, revision: int, database: Database
    ) -> None:
        job_id = drafted(database, ("a.html", 0.5))
        before = decide(database, job_id, "edit", 0, text="Mine", by="cy")

        said = "cy has decided since you looked" if revision == 0 else "this is revision 1"
        with pytest.raises(ReviewConflict, match=said):
            decide(database, job_id, action, revision, text="Theirs")

        assert queue(database) == [before]

    def test_of_many_at_once_one_decides(self, database: Database) -> None:
        job_id = drafted(database, ("a.html", 0.5))
        outcomes: list[str] = []

        def run(number: int) -> None:
            try:
                decide(database, job_id, "edit", 0, text=f"Text {number}")
                outcomes.append(f"Text {number}")
            except ReviewConflict:
                outcomes.append("conflict")

        threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        [won] = set(outcomes) - {"conflict"}
        assert outcomes.count("conflict") == 7
        assert queue(database)[0].content.text == won

    def test_a_mended_text_stays_in_its_language(self, database: Database) -> None:
        job_id = drafted(database, ("a.html", 0.5))

        assert decide(database, job_id, "edit", 0, text="Mine").content.language == "English"

    def test_what_is_all_that_a_link_has_is_never_decorative(self, database: Database) -> None:
        job_id = drafted(database, ("a.html", 0.5), role="functional")

        with pytest.raises(RequestError, match="say where that leads"):
            decide(database, job_id, "decorative", 0)

    @pytest.mark.parametrize("said", [None, "", "  "])
    def test_an_edit_needs_a_text(self, said: str | None, database: Database) -> None:
        job_id = drafted(database, ("a.html", 0.5))

        with pytest.raises(RequestError, match="requires a text"):
            decide(database, job_id, "edit", 0, text=said)
