"""What commands print with --json has the fields that the page of the command line lists."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from db.vocabulary.errors import ImageUnreadable
from docs.reference import json_fields
from idefiq import Client
from tests.idefiq.cli.conftest import Command
from tests.played import Played

IMAGE = "blob:" + "0" * 64
#: Names of release 0.1 that are printed beside the new ones, and are not documented.
UNTIL_0_3 = {"licence", "on_their_way"}


def record(result: Any) -> dict[str, Any]:
    """The last object that a command printed."""
    assert result.stdout, result.exception
    last: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return last


def names(result: Any) -> set[str]:
    return set(record(result)) - UNTIL_0_3


def test_commands_that_steer_a_job_print_the_job(command: Command, client: Client) -> None:
    job = client.submit([{"images": [IMAGE]}]).id
    documented = set(json_fields("jobs"))

    assert names(command("jobs", "--json")) == documented
    assert names(command("priority", job, "3", "--json")) == documented
    paused = command("pause", job, "--json")
    assert names(paused) == documented
    assert (record(paused)["id"], record(paused)["state"]) == (job, "paused")
    assert record(command("resume", job, "--json"))["state"] == "queued"
    assert record(command("cancel", job, "--json"))["state"] in ("cancelling", "cancelled")


def test_times_are_as_the_http_interface_has_them(
    command: Command, client: Client, http_sqlite: Any
) -> None:
    job = client.submit([{"images": [IMAGE]}]).id

    printed = record(command("jobs", "--json"))["created_at"]

    sent = http_sqlite.get(f"/v1/jobs/{job}").json()["created_at"]
    assert printed.endswith("Z")
    assert datetime.fromisoformat(printed) == datetime.fromisoformat(sent)


def test_a_retried_and_a_deleted_job_are_named(
    command: Command, client: Client, played: Played
) -> None:
    job = client.submit([{"images": [IMAGE]}]).id
    played.fail(played.claim(), ImageUnreadable("no image"))

    retried = command("retry", job, "--json")
    deleted = command("delete", job, "--json")

    assert names(retried) == set(json_fields("retry JOB"))
    assert names(deleted) == set(json_fields("delete"))
    assert record(deleted) == {"id": job, "deleted": True}


def test_a_run_prints_its_summary_and_a_dry_run_its_counts(
    command: Command, played: Played, folder: Path
) -> None:
    dry = command("caption", "in", "--out", "out.jsonl", "--dry-run", "--json")
    with played.running():
        done = command("caption", "in", "--out", "out.jsonl", "--json")

    assert names(dry) == set(json_fields("caption --dry-run"))
    assert names(done) == set(json_fields("caption"))


def test_models_print_their_fields(command: Command) -> None:
    assert names(command("models", "--json")) == set(json_fields("models"))


@pytest.mark.parametrize("words", [("alt", "check"), ("alt", "draft", "--dry-run")])
def test_checked_pages_print_their_counts(
    words: tuple[str, ...], command: Command, folder: Path
) -> None:
    Path("page.html").write_text('<img src="in/a.png">')

    printed = command(*words, "page.html", "--json")

    assert names(printed) == set(json_fields(" ".join(words)))


def test_drafts_and_reviews_print_their_fields(
    command: Command, played: Played, folder: Path
) -> None:
    Path("page.html").write_text('<img src="in/a.png">')

    with played.running("A boat."):
        drafted = command("alt", "draft", "page.html", "--json")
    applied = command("alt", "apply", "page.html", "--unreviewed", "--json")

    assert names(drafted) == set(json_fields("alt draft"))
    assert names(applied) == set(json_fields("alt apply"))
    assert names(command("review", "--json")) == set(json_fields("review"))
    exported = command("review", "--csv", "queue.csv", "--json")
    imported = command("review", "--import-csv", "queue.csv", "--json")
    assert record(exported) == {"drafts": 1, "file": "queue.csv"}
    assert record(imported) == {"taken": 0, "refused": 0}
    assert names(exported) == set(json_fields("review --csv"))
    assert names(imported) == set(json_fields("review --import-csv"))


def test_issues_of_texts_print_their_fields(command: Command) -> None:
    printed = command("alt", "lint", "--text", "image of a boat", "--json")

    assert names(printed) == set(json_fields("alt lint"))
