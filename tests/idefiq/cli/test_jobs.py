"""Looking after jobs from the command line."""

import io
import json
import sys
from pathlib import Path

import pytest

from db.vocabulary.errors import ImageUnreadable
from idefiq import Client
from idefiq.cli.common import print_json
from tests.idefiq.cli.conftest import Command
from tests.played import Played

IMAGE = "blob:" + "0" * 64


def test_jobs_results_and_models_can_be_listed_later(
    command: Command, client: Client, played: Played, tmp_path: Path
) -> None:
    job = client.submit([{"images": [IMAGE], "custom_id": name} for name in "ab"])
    [first, second] = played.claim()
    played.complete([second], "seen")
    played.fail([first], ImageUnreadable("no image"))

    listed, as_json = command("jobs"), command("jobs", "--json")
    results = command("results", job.id)
    command("results", job.id, "--out", tmp_path / "out.csv")
    again = command("results", job.id, "--out", tmp_path / "out.csv")
    models = command("models", "--json")

    assert job.id in listed.stdout
    assert json.loads(as_json.stdout)["counts"]["failed"] == 1
    assert [json.loads(line) for line in results.stdout.splitlines()] == [
        {"file": "a", "answer": None, "error": "no image"},
        {"file": "b", "answer": "seen", "error": None},
    ]
    assert (tmp_path / "out.csv").read_text().splitlines() == [
        "file,answer,error",
        "a,,no image",
        "b,seen,",
    ]
    assert "replace it with --overwrite" in str(again.exception)
    assert json.loads(models.stdout)["name"] == "echo"
    assert "echo" in command("models").stdout


def test_the_name_of_a_job_is_text(command: Command, client: Client) -> None:
    job = client.submit([{"images": [IMAGE]}], name="photos/[/red].png [x]")

    listed = command("jobs")

    assert listed.exit_code == 0
    assert "photos/[/red].png [x]" in listed.stdout
    assert job.id in listed.stdout


def test_a_line_for_a_program_does_not_wait_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.BytesIO()
    buffered = io.TextIOWrapper(pipe)
    monkeypatch.setattr(sys, "stdout", buffered)

    print_json({"event": "item"})

    assert pipe.getvalue() == b'{"event": "item"}\n'


def test_a_job_is_watched_until_its_end(command: Command, client: Client, played: Played) -> None:
    job = client.submit([{"images": [IMAGE], "custom_id": "a"}])

    with played.running("seen"):
        events = [json.loads(line) for line in command("watch", job.id).stdout.splitlines()]

    assert [event["answer"] for event in events if event["event"] == "item"] == ["seen"]
    assert (events[-1]["event"], events[-1]["state"]) == ("end", "succeeded")


def test_a_job_is_steered_and_retried(command: Command, client: Client, played: Played) -> None:
    job = client.submit([{"images": [IMAGE]}])

    said = [command(verb, job.id).stdout.strip() for verb in ("pause", "resume")]
    played.fail(played.claim(), ImageUnreadable("no image"))
    retried = command("retry", job.id)
    asked = json.loads(command("retry", job.id, "--json").stdout)

    assert said == [f"{job.id}: paused", f"{job.id}: queued"]
    assert "retries 1 items" in retried.stdout
    assert client.job(asked["job"]).counts.total == 1
    assert ": cancelling" in command("cancel", asked["job"]).stdout


@pytest.mark.parametrize("verb", ["results", "cancel", "watch"])
def test_a_missing_job_is_one_line(command: Command, verb: str) -> None:
    result = command(verb, "nope")

    assert "no such job: 'nope'" in str(result.exception)


def test_the_shell_is_taught_to_complete(command: Command) -> None:
    help_text = command("--help").stdout

    assert "--install-completion" in help_text
    for name in ("caption", "ask", "classify", "chat", "retry", "watch"):
        assert name in help_text


def test_a_job_is_moved_up_and_in_the_end_deleted(
    command: Command, client: Client, played: Played
) -> None:
    job = client.submit([{"images": [IMAGE]}])

    moved = command("priority", job.id, "--", "-4")
    refused = command("delete", job.id)
    played.step()
    deleted = command("delete", job.id)

    assert moved.stdout.strip() == f"{job.id}: priority -4"
    assert "cancel it" in str(refused.exception)
    assert deleted.stdout.strip() == f"{job.id}: deleted"
    assert list(client.jobs()) == []
