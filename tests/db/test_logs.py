"""Logs as JSON: a line for each record, with the ids that were bound where it was logged."""

import json
import logging
import threading
from typing import Any

import pytest

from db import logs


@pytest.fixture
def restored() -> Any:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield
    root.handlers[:], root.level = handlers, level


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_says_when_where_and_what(
    restored: None, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("engine", "json", worker="gpu-1")
    logging.getLogger("workers.x").warning("out of %s", "memory")

    [line] = lines(capsys)

    assert line["time"].endswith("+00:00")
    assert {name: line[name] for name in ("level", "process", "worker", "logger", "message")} == {
        "level": "warning",
        "process": "engine",
        "worker": "gpu-1",
        "logger": "workers.x",
        "message": "out of memory",
    }


def test_a_traceback_stays_on_its_line(restored: None, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("api", "json")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("x").exception("it failed")

    [line] = lines(capsys)

    assert "ValueError: two\nlines" in line["exception"]


def test_ids_are_bound_inside_their_block_and_in_no_other_thread(
    restored: None, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("api", "json")
    log = logging.getLogger("x")
    with logs.bound(job_id="job_1"), logs.bound(item_id=7):
        log.warning("inside")
        thread = threading.Thread(target=log.warning, args=("elsewhere",))
        thread.start()
        thread.join()
    log.warning("after")

    found = {line["message"]: (line.get("job_id"), line.get("item_id")) for line in lines(capsys)}

    assert found == {"inside": ("job_1", 7), "elsewhere": (None, None), "after": (None, None)}


def test_a_line_that_json_does_not_know_is_logged_all_the_same(
    restored: None, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("api", "json")
    with logs.bound(subject=object()):
        logging.getLogger("x").warning("\N{SNOWMAN} %s", b"\xff")

    assert lines(capsys)[0]["message"] == "\N{SNOWMAN} b'\\xff'"
