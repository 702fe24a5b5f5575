"""The pages say what the code says, and every example of the interface works."""

import json
import re
import subprocess
from pathlib import Path

import httpx2

from db import owners
from db.sql.database import Database
from docs.reference import DOCS, Example, examples, openapi, pages
from tests import pictures
from tests.played import Played
from tests.servers import PATIENCE_SECONDS


def test_the_pages_are_as_make_docs_writes_them() -> None:
    for path, text in pages().items():
        assert path.read_text() == text, f"{path.name}: run `make docs`"


def test_every_command_is_on_the_page_those_of_groups_included() -> None:
    page = (DOCS / "cli.md").read_text()

    for name in ("caption", "up", "models", "models pull", "keys create", "admin limit"):
        assert re.search(rf"^## `idefiq {name}[` ]", page, re.MULTILINE), name


def test_every_route_has_an_example() -> None:
    routes = {
        f"{method.upper()} {path}"
        for path, methods in openapi()["paths"].items()
        for method in methods
    }

    assert {example.route for example in examples()} == routes


def test_every_example_answers_as_the_page_shows(
    http_sqlite: httpx2.Client, sqlite_url: str, tmp_path: Path
) -> None:
    record = Database(sqlite_url)
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(pictures.plain(size=(4, ord(name))))
    (tmp_path / "items.jsonl").write_text('{"images": ["https://example.com/c.png"]}\n')
    content = [{"type": "image_url", "image_url": {"url": "https://example.com/c.png"}}]
    body = {"model": "echo", "messages": [{"role": "user", "content": content}]}
    line = {"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (tmp_path / "batch.jsonl").write_text(json.dumps(line))
    with record.transaction() as transaction:
        operator = owners.get_or_create(transaction, "operator")
        admin = owners.create_key(transaction, operator, scopes=["admin"])
    kept = {"URL": str(http_sqlite.base_url).rstrip("/"), "admin": admin}

    with Played(record, tmp_path).running("a red square"):
        for example in examples():
            status, answer = _run(example, kept, tmp_path)
            assert status == example.status, f"{example.command}\n{answer}"
            for name, path in example.kept.items():
                kept[name] = _value(json.loads(answer), path)
    record.dispose()


def _run(example: Example, kept: dict[str, str], folder: Path) -> tuple[int, str]:
    command = re.sub(r"\$(\w+)", lambda place: kept[place[1]], example.command)
    measured = command.replace("curl ", "curl -s -o answer -w '%{http_code}' ", 1)
    done = subprocess.run(
        ["bash", "-c", measured],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    return int(done.stdout), (folder / "answer").read_text(errors="replace")


def _value(answer: object, path: str) -> str:
    for step in path.split("."):
        answer = answer[int(step)] if isinstance(answer, list) else answer[step]  # type: ignore[index]
    return str(answer)
