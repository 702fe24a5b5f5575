"""The queue as operators see it: over HTTP, in Python, and in `idefiq top`."""

import io
import json

import httpx2
import pytest
from rich.console import Console
from typer.testing import CliRunner

from db import owners
from db.queue import jobs, usage
from db.queue.usage import Amounts
from db.sql.database import Database
from idefiq import Client
from idefiq.cli import app
from idefiq.cli.top import Look, frame
from idefiq.queue import Queue, QueuedModel
from tests.api.test_keys import key
from tests.db import builders
from tests.served import Serve


@pytest.fixture
def busy(offered: Database) -> Database:
    """Two models: one is served and has answered something, the other has nobody."""
    builders.job(offered, 3)
    [lease] = builders.claim(offered, builders.session(offered), limit=1)
    with offered.transaction() as transaction:
        used = Amounts(items=5, images=6, completion_tokens=70, device_seconds=1.5)
        usage.add(transaction, [(lease, used)])
    paused = builders.job(offered, 2, model="other")
    owner = builders.owner(offered)
    with offered.transaction() as transaction:
        jobs.pause(transaction, owner, paused, paused=True)
    builders.age(offered, 3_700, "items.due_at")
    return offered


def test_each_model_is_shown_with_what_waits_who_serves_it_and_what_was_done(
    serve: Serve, busy: Database
) -> None:
    with Client(str(serve(busy.url).base_url)) as client:
        queue = client.queue()

    echo, other = queue.models
    assert (echo.model, echo.engines, echo.queued, echo.running) == ("echo", 1, 2, 1)
    # If midnight has passed meanwhile, this is a day on which nothing was done.
    assert (echo.items, echo.images, echo.completion_tokens) in ((5, 6, 70), (0, 0, 0))
    assert echo.oldest_due_seconds >= 3_700
    assert (other.engines, other.paused, other.oldest_due_seconds) == (0, 2, 0.0)
    assert (queue.owners, queue.jobs) == ({"ada": 5}, {"running": 1, "paused": 1})


def test_the_queue_of_all_needs_the_scope_metrics_or_admin(serve: Serve, offered: Database) -> None:
    http: httpx2.Client = serve(offered.url, keys="always")
    told = {s: http.get("/v1/queue", headers=key(offered, s)).status_code for s in owners.Scope}

    assert [scope for scope, status in told.items() if status == 200] == ["metrics", "admin"]


def test_rates_are_those_between_two_looks() -> None:
    def looked(items: int, device_seconds: float, at: float) -> Look:
        one = QueuedModel("demo", 2, 1_000, 64, 0, 75.0, items, 3, 0, items, 0, 0, device_seconds)
        return Look(Queue([one], 1, {"running": 4}, {"ada": 1_064}, 0), at)

    console = Console(width=160, record=True, file=io.StringIO())
    console.print(frame(looked(100, 10.0, 50.0), looked(180, 14.0, 54.0)))
    shown = console.export_text()

    assert "4 running" in shown
    assert "ada 1,064" in shown
    row = next(line for line in shown.splitlines() if line.strip().startswith("demo")).split()
    assert row[:6] == ["demo", "2", "1,000", "64", "0", "1:15"]
    assert row[6:] == ["20.0", "20.0", "0.0", "0.0", "50%", "3"]


def test_the_first_look_at_a_new_model_and_at_a_new_day_has_no_rate() -> None:
    empty = Queue([], 0, {}, {}, 0)
    new = QueuedModel("demo", 1, 0, 0, 0, 0.0, 500, 0, 0, 500, 0, 0, 9.0)
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(frame(Look(empty, 1.0), Look(Queue([new], 1, {}, {}, 0), 2.0)))

    assert "500.0" not in console.export_text()


@pytest.mark.parametrize("form", ["--once", "--json"])
def test_the_command_prints_one_look(serve: Serve, busy: Database, form: str) -> None:
    url = str(serve(busy.url).base_url)
    words = ["top", "--url", url, "--interval", "0.5", form]
    shown = CliRunner().invoke(app, words, env={"COLUMNS": "160"})

    assert shown.exit_code == 0, shown.output
    if form == "--json":
        assert [one["model"] for one in json.loads(shown.stdout)["models"]] == ["echo", "other"]
    else:
        assert "other" in shown.stdout
        assert "1 paused, 1 running" in shown.stdout
