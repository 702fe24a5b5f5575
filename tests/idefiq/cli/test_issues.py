"""Answers with issues, and what a run costs, on the command line."""

import json
import sys
from pathlib import Path

import httpx2
import pytest

from db.queue import jobs
from db.sql.database import Database
from db.vocabulary.errors import FetchFailed
from idefiq import Client
from idefiq.bulk.manifest_chunks import ChunkTable
from idefiq.bulk.run import Run
from tests.idefiq.cli.conftest import Command
from tests.idefiq.cli.test_runs import rows
from tests.played import Played
from tests.served import Serve

IMAGE = "blob:" + "0" * 64
LOOP = "a dog and a dog and a dog and a dog"


def test_results_can_be_those_with_an_issue_and_jobs_count_them(
    command: Command, client: Client, played: Played
) -> None:
    job = client.submit([{"images": [IMAGE], "custom_id": name} for name in "ab"])
    [one, other] = played.claim()
    played.complete([one], LOOP)
    played.complete([other], "seen")

    shown = command("results", job.id, "--issue", "repetition")
    listed = json.loads(command("jobs", "--json").stdout)

    assert [json.loads(line) for line in shown.stdout.splitlines()] == [
        {"file": "a", "answer": LOOP, "error": None, "issues": "repetition"}
    ]
    assert (listed["answers_with_issues"], listed["issues"]) == (1, {"repetition": 1})
    assert [result.issues for result in client.results(job, issues=["any"])] == [["repetition"]]


def test_an_unknown_issue_is_refused_with_the_known_ones(
    command: Command, client: Client, played: Played
) -> None:
    job = client.submit([{"images": [IMAGE]}])

    assert "'repetition'" in str(command("results", job.id, "--issue", "boring").exception)


def test_a_job_with_issues_is_retried_with_another_option(
    command: Command, client: Client, played: Played, http_sqlite: httpx2.Client
) -> None:
    job = client.submit([{"images": [IMAGE], "custom_id": name} for name in "ab"])
    [one, other] = played.claim()
    played.complete([one], LOOP)
    played.complete([other], "seen")

    words = ["retry", job.id, "--issue", "repetition", "--option", "temperature=0.7", "--json"]
    again = json.loads(command(*words).stdout)

    assert again["items"] == 1
    item = http_sqlite.get(f"/v1/jobs/{again['job']}/items/0").json()
    assert item["request"]["options"] == {"temperature": 0.7, "do_sample": True}


def test_a_run_with_issues_says_so_and_is_retried_in_its_output(
    command: Command, client: Client, played: Played, folder: Path, record: Database
) -> None:
    with played.running(LOOP):
        first = command("caption", "in/a.png", "--out", "out.jsonl")
    with played.running("seen"):
        command("caption", "in", "--out", "out.jsonl")
        none = command("retry", "out.jsonl", "--issue", "refusal")
        words = ["--issue", "repetition", "--issue", "cut", "--option", "temperature=0.7"]
        again = command("retry", "out.jsonl", *words)

    assert "answers with issues: 1 (repetition 1)" in first.stderr
    assert "retrying 0 images" in none.stderr
    assert "retrying 1 images" in again.stderr
    assert list(rows(Path("out.jsonl")).values()) == ["seen"] * 3
    with record.snapshot() as transaction:
        found = jobs.several(transaction, [job.id for job in client.jobs()])
    options = [job.defaults.get("options") for job in sorted(found, key=lambda job: job.id)]
    assert options == [None, None, {"temperature": 0.7, "do_sample": True}]
    assert "issues" not in Path("out.jsonl").read_text()


@pytest.mark.parametrize("option", ["temprature=0.7", "max_new_tokens=999999"])
def test_a_retry_that_the_service_refuses_loses_no_answer(
    command: Command, played: Played, folder: Path, option: str
) -> None:
    with played.running(LOOP):
        command("caption", "in", "--out", "out.jsonl")
    before = Path("out.jsonl").read_text()

    refused = command("retry", "out.jsonl", "--issue", "any", "--option", option)
    again = command("caption", "in", "--out", "out.jsonl")

    assert refused.exit_code != 0
    assert option.partition("=")[0] in str(refused.exception)
    assert again.exit_code == 0, again.output
    assert Path("out.jsonl").read_text() == before


def test_a_retry_that_is_stopped_keeps_old_answers_until_there_are_new_ones(
    command: Command, played: Played, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with played.running(LOOP):
        command("caption", "in", "--out", "out.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(Run, "take", stop)
        command("retry", "out.jsonl", "--issue", "any", "--option", "temperature=0.7")
    stopped = rows(Path("out.jsonl"))

    with played.running("seen"):
        resumed = command("caption", "in", "--out", "out.jsonl")

    assert list(stopped.values()) == [LOOP] * 3
    assert resumed.exit_code == 0, resumed.output
    assert list(rows(Path("out.jsonl")).values()) == ["seen"] * 3


def test_an_image_whose_retry_fails_keeps_its_answer_and_the_run_says_so(
    command: Command, played: Played, folder: Path
) -> None:
    with played.running(LOOP):
        command("caption", "in", "--out", "out.jsonl")

    with played.meanwhile(lambda: played.fail(played.claim(), FetchFailed("away"))):
        again = command("retry", "out.jsonl", "--issue", "repetition")

    assert again.exit_code == 0, again.output
    assert "3 retried images failed and keep their earlier answers" in again.stderr
    assert list(rows(Path("out.jsonl")).values()) == [LOOP] * 3


def test_a_run_that_has_not_finished_is_not_retried_with_other_options(
    command: Command, played: Played, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChunkTable, "submitted", lambda *_: sys.exit(9))
    command("caption", "in", "--out", "out.jsonl")
    monkeypatch.undo()
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("IDEFIQ_URL", "http://127.0.0.1:1")  # it is refused before anything is sent

    refused = command("retry", "out.jsonl", "--issue", "any", "--option", "temperature=0.7")

    assert "the run has not finished" in str(refused.exception)


def test_a_run_stops_when_a_job_has_paused_itself_and_says_how_to_go_on(
    command: Command, client: Client, played: Played, folder: Path
) -> None:
    for number in range(40):
        image = folder / f"{number}.png"
        image.write_bytes((folder / "a.png").read_bytes() + bytes([number]))

    with played.meanwhile(lambda: played.step(LOOP, limit=20)):
        stopped = command("caption", "in", "--out", "out.jsonl", "--pause-on-issues", "0.5")

    [job] = client.jobs()
    assert (job.state, job.pause_reason) == ("paused", "issues")
    told = str(stopped.exception)
    assert f"{job.id} has paused itself: 20 of 20 answers have issues (repetition 20)" in told
    assert f"idefiq resume {job.id}" in told
    command("resume", job.id)
    with played.running("seen"):
        again = command("caption", "in", "--out", "out.jsonl", "--pause-on-issues", "0.5")
    assert again.exit_code == 0, again.output
    assert sorted({str(text) for text in rows(Path("out.jsonl")).values()}) == [LOOP, "seen"]


def test_a_run_stops_when_its_model_has_changed_and_says_how_to_go_on(
    command: Command, client: Client, played: Played, folder: Path
) -> None:
    for number in range(40):
        image = folder / f"{number}.png"
        image.write_bytes((folder / "a.png").read_bytes() + bytes([number]))
    played.serve("old")

    def answer_and_update() -> None:
        if played.step("seen", limit=20):
            played.serve("new")

    with played.meanwhile(answer_and_update):
        stopped = command("caption", "in", "--out", "out.jsonl")

    [job] = client.jobs()
    assert (job.state, job.pause_reason) == ("paused", "model_changed")
    told = str(stopped.exception)
    assert f"{job.id} has paused itself after 20 answers" in told
    command("resume", job.id)
    with played.running("seen anew"):
        again = command("caption", "in", "--out", "out.jsonl")
    assert again.exit_code == 0, again.output
    assert sorted({str(text) for text in rows(Path("out.jsonl")).values()}) == ["seen", "seen anew"]


def test_a_run_that_may_continue_takes_the_answers_of_every_variant(
    command: Command, played: Played, folder: Path
) -> None:
    variants = iter("abc")

    def answer_and_update() -> None:
        if played.step("seen", limit=1):
            played.serve(next(variants))

    played.serve("first")
    with played.meanwhile(answer_and_update):
        done = command("caption", "in", "--out", "out.jsonl", "--model-changed", "continue")

    assert done.exit_code == 0, done.output


def test_a_run_says_what_it_has_cost_and_a_dry_run_what_it_will(
    serve: Serve, sqlite_url: str, command: Command, played: Played, folder: Path
) -> None:
    http = serve(sqlite_url, prices={"echo": {"item": 0.5}}, currency="EUR")
    url = ["--url", str(http.base_url)]

    with played.running("seen"):
        done = command("caption", "in/a.png", "in/b.png", "--out", "out.jsonl", *url)
    dry = command("caption", "in", "--out", "out.jsonl", "--dry-run", *url)
    told = json.loads(
        command("caption", "in", "--out", "out.jsonl", "--dry-run", "--json", *url).stdout
    )

    assert "cost: 1.00 EUR" in done.stderr
    assert "estimated cost: 0.50 EUR, at the cost of recent jobs" in dry.stdout
    assert (told["cost"], told["currency"]) == (pytest.approx(0.5), "EUR")
