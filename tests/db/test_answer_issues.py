"""Issues of answers: counted in their job, filtered by, retried, and a job that pauses itself."""

from collections.abc import Sequence
from typing import Any

import pytest

from db.queue import job_lists, jobs, leases, results, retries
from db.queue.answer_issues import MIN_ANSWERS_TO_PAUSE
from db.queue.jobs import Job
from db.queue.lease import Lease
from db.queue.retries import Retry
from db.queue.submissions import NewItem, NewJob
from db.sql.database import Database
from db.vocabulary.errors import RequestError
from db.vocabulary.limits import OwnerLimits
from db.webhooks import endpoints, outbox
from tests.db import builders

ENOUGH = MIN_ANSWERS_TO_PAUSE


def job(database: Database, job_id: str) -> Job:
    with database.snapshot() as transaction:
        return jobs.several(transaction, [job_id])[0]


def complete(database: Database, taken: Sequence[Lease], *issues: str) -> set[int]:
    answer = {"text": "a", "issues": list(issues)}
    with database.transaction() as transaction:
        return leases.complete(transaction, [(lease, answer) for lease in taken])


def answered(database: Database, *issues: list[str], **fields: Any) -> str:
    """A finished job with an answer for each list of issues."""
    job_id = builders.job(database, len(issues), **fields)
    taken = builders.claim(database, builders.session(database))
    for lease, found in zip(taken, issues, strict=True):
        complete(database, [lease], *found)
    return job_id


def retry(database: Database, job_id: str, wanted: Retry, key: str | None = None) -> str:
    def check(request: dict[str, Any]) -> None:
        if request["options"].get("temperature", 0) > 5:
            raise RequestError("too hot", field="options.temperature")

    with database.transaction() as transaction:
        earlier = jobs.several(transaction, [job_id])[0]
        return retries.retry(transaction, earlier, wanted, key, OwnerLimits(), check)


def test_a_job_counts_its_answers_with_issues_and_each_issue(database: Database) -> None:
    made = answered(database, ["cut"], [], ["cut", "repetition"])

    found = job(database, made)

    assert (found.succeeded, found.answers_with_issues) == (3, 2)
    assert found.issue_counts == {"cut": 2, "repetition": 1}


def test_an_answer_whose_lease_was_lost_counts_no_issue(database: Database) -> None:
    made = builders.job(database, 1)
    session = builders.session(database)
    taken = builders.claim(database, session)
    builders.complete(database, taken)

    assert complete(database, taken, "cut") == set()

    assert job(database, made).issue_counts == {}


@pytest.mark.parametrize(
    ("issues", "expected"),
    [((), [0, 1, 2, 3]), (["cut"], [0, 2]), (["any"], [0, 2, 3]), (["empty", "refusal"], [3])],
)
def test_results_can_be_those_with_some_issues(
    database: Database, issues: list[str], expected: list[int]
) -> None:
    made = answered(database, ["cut"], [], ["cut", "repetition"], ["empty"])

    with database.snapshot() as transaction:
        page = results.finished_after(transaction, made, number=0, limit=10, issues=issues)
        ordered = results.in_order(transaction, made, first=0, limit=10, issues=issues)

    assert [item.ordinal for item in page] == expected
    assert [item.ordinal for item in ordered] == expected


class TestRetrying:
    def test_answers_with_an_issue_become_a_job_with_other_options(
        self, database: Database
    ) -> None:
        options = {"max_new_tokens": 5, "seed": 3}
        defaults = {"options": options}
        made = answered(database, ["cut"], [], ["repetition"], defaults=defaults)

        changes = {"max_new_tokens": 9, "do_sample": True, "temperature": 0.7}
        again = retry(database, made, Retry(issues=["repetition", "cut"], options=changes))

        taken = builders.claim(database, builders.session(database, "w2"))
        assert [lease.request["prompt"] for lease in taken] == ["number 0", "number 2"]
        assert [lease.request["options"] for lease in taken] == [{**options, **changes}] * 2
        [digest] = {lease.options_digest for lease in taken}
        same = builders.job(database, defaults={"options": {**options, **changes, "seed": 4}})
        [other] = builders.claim(database, builders.session(database, "w3"))
        assert (other.job_id, other.options_digest) == (same, digest)
        assert job(database, again).total == 2
        assert job(database, made).answers_with_issues == 2

    def test_failed_items_are_retried_only_if_they_are_asked_for(self, database: Database) -> None:
        made = builders.job(database, 3)
        taken = builders.claim(database, builders.session(database))
        complete(database, taken[:1], "cut")
        complete(database, taken[1:2])
        builders.fail(database, taken[2:])

        assert job(database, retry(database, made, Retry(issues=["any"]))).total == 1
        assert job(database, retry(database, made, Retry())).total == 1
        both = Retry(codes=["image_unreadable"], issues=["any"])
        assert job(database, retry(database, made, both)).total == 2

    def test_what_is_not_there_is_said(self, database: Database) -> None:
        made = answered(database, ["cut"])

        with pytest.raises(RequestError, match="no answers with issue empty or refusal"):
            retry(database, made, Retry(issues=["empty", "refusal"], options={"seed": 1}))
        with pytest.raises(RequestError, match="no failed items with x and no answers with iss"):
            retry(database, made, Retry(codes=["x"], issues=["empty"]))

    @pytest.mark.parametrize("seed", [None, 5])
    def test_items_that_differ_in_their_seed_alone_are_checked_too(
        self, database: Database, seed: int | None
    ) -> None:
        owner_id = builders.owner(database)
        image = builders.checked_image(database, owner_id)
        each = [{"do_sample": True}, {"do_sample": True, "seed": seed}]
        requests = [NewItem({"images": [image], "options": options}) for options in each]
        if seed is None:
            requests = requests[:1]
        with database.transaction() as transaction:
            new = NewJob(owner_id, builders.MODEL, {})
            made = builders.submit(transaction, new, requests)
        complete(database, builders.claim(database, builders.session(database)), "cut")
        seen: list[object] = []

        with database.transaction() as transaction:
            earlier = jobs.several(transaction, [made])[0]
            wanted = Retry(issues=["cut"], options={"top_k": 5})
            retries.retry(
                transaction,
                earlier,
                wanted,
                None,
                OwnerLimits(),
                lambda request: seen.append(request["options"].get("seed")),
            )

        assert sorted(map(str, seen)) == (["None"] if seed is None else ["5", "None"])

    def test_items_with_too_many_options_of_their_own_are_refused(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retries, "MAX_OPTION_SETS", 2)
        owner_id = builders.owner(database)
        image = builders.checked_image(database, owner_id)
        requests = [
            NewItem({"images": [image], "options": {"max_new_tokens": n}}) for n in (1, 2, 3)
        ]
        with database.transaction() as transaction:
            made = builders.submit(transaction, NewJob(owner_id, builders.MODEL, {}), requests)
        complete(database, builders.claim(database, builders.session(database)), "cut")

        with pytest.raises(RequestError, match="more than 2 sets of options"):
            retry(database, made, Retry(issues=["cut"], options={"top_k": 5}))
        assert job(database, retry(database, made, Retry(issues=["cut"]))).total == 3

    def test_options_that_the_model_does_not_take_are_refused_and_no_job_is_made(
        self, database: Database
    ) -> None:
        made = answered(database, ["cut"])

        with pytest.raises(RequestError, match="too hot"):
            retry(database, made, Retry(issues=["cut"], options={"temperature": 6.0}))

        with database.snapshot() as transaction:
            found = job_lists.page(transaction, builders.owner(database), before=None, limit=9)
        assert [one.id for one in found] == [made]


class TestPausing:
    def test_a_job_pauses_itself_above_its_share_and_a_webhook_is_told(
        self, database: Database
    ) -> None:
        with database.transaction() as transaction:
            owner_id = builders.owner_in(transaction)
            webhook = endpoints.add(transaction, owner_id, "https://example.com/told", [])
        made = builders.job(database, 2 * ENOUGH, pause_on_issues=0.25)
        taken = builders.claim(database, builders.session(database))
        bad = ENOUGH // 4
        complete(database, taken[: ENOUGH - bad])

        complete(database, taken[ENOUGH - bad : ENOUGH], "cut")
        assert job(database, made).state == "running"
        complete(database, taken[ENOUGH : ENOUGH + 1], "cut")

        paused = job(database, made)
        assert (paused.state, paused.pause_reason) == ("paused", "issues")
        with database.snapshot() as transaction:
            [told] = outbox.log(transaction, owner_id, webhook.id, before=None, limit=9)
        assert (told.event, told.subject) == ("job.paused", made)

    def test_answers_without_issues_can_be_those_that_make_enough(self, database: Database) -> None:
        made = builders.job(database, ENOUGH + 1, pause_on_issues=0.5)
        taken = builders.claim(database, builders.session(database))
        complete(database, taken[: ENOUGH - 1], "cut")

        complete(database, taken[ENOUGH - 1 : ENOUGH])

        assert job(database, made).pause_reason == "issues"

    def test_a_job_that_has_paused_itself_and_is_paused_again_is_resumed_without_the_rule(
        self, database: Database
    ) -> None:
        made = builders.job(database, ENOUGH + 2, pause_on_issues=0.0)
        owner_id = builders.owner(database)
        taken = builders.claim(database, builders.session(database))
        complete(database, taken[:ENOUGH], "cut")
        before = job(database, made).paused_at

        with database.transaction() as transaction:
            again = jobs.pause(transaction, owner_id, made, paused=True)
        with database.transaction() as transaction:
            resumed = jobs.pause(transaction, owner_id, made, paused=False)
        complete(database, taken[ENOUGH : ENOUGH + 1], "cut")

        assert (again.pause_reason, again.paused_at) == ("issues", before)
        assert resumed.pause_on_issues is None
        assert job(database, made).state == "running"

    def test_a_job_with_few_answers_does_not_pause(self, database: Database) -> None:
        made = builders.job(database, ENOUGH, pause_on_issues=0.0)
        taken = builders.claim(database, builders.session(database))

        complete(database, taken[: ENOUGH - 1], "cut")

        assert job(database, made).state == "running"

    def test_a_job_that_has_finished_with_its_last_answer_is_not_paused(
        self, database: Database
    ) -> None:
        made = answered(database, *[["cut"]] * ENOUGH, pause_on_issues=0.0)

        assert (job(database, made).state, job(database, made).paused_at) == ("succeeded", None)

    def test_resuming_it_turns_the_rule_off_and_its_end_is_told_too(
        self, database: Database
    ) -> None:
        made = builders.job(database, ENOUGH + 1, pause_on_issues=0.0)
        with database.transaction() as transaction:
            owner_id = builders.owner_in(transaction)
            webhook = endpoints.add(transaction, owner_id, "https://example.com/told", [])
        taken = builders.claim(database, builders.session(database))
        complete(database, taken[:ENOUGH], "cut")

        with database.transaction() as transaction:
            jobs.pause(transaction, owner_id, made, paused=False)
        complete(database, taken[ENOUGH:], "cut")

        assert job(database, made).state == "succeeded"
        with database.snapshot() as transaction:
            told = outbox.log(transaction, owner_id, webhook.id, before=None, limit=9)
        assert {one.event for one in told} == {"job.paused", "job.succeeded"}

    def test_resuming_what_somebody_paused_keeps_the_rule(self, database: Database) -> None:
        made = builders.job(database, 2, pause_on_issues=0.5)
        owner_id = builders.owner(database)

        for paused in (True, False):
            with database.transaction() as transaction:
                found = jobs.pause(transaction, owner_id, made, paused=paused)
            assert found.pause_reason == ("requested" if paused else None)

        assert job(database, made).pause_on_issues == 0.5
