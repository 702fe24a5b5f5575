"""The command line, against a real API whose workers are played by the test."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner

from idefiq import Client
from idefiq.cli import app
from tests import pictures

Command = Callable[..., Any]


@pytest.fixture
def command(http_sqlite: httpx2.Client, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run `idefiq` with some words."""
    monkeypatch.setenv("IDEFIQ_URL", str(http_sqlite.base_url))
    runner = CliRunner()
    return lambda *words, **said: runner.invoke(app, [str(word) for word in words], **said)


@pytest.fixture
def client(http_sqlite: httpx2.Client) -> Iterator[Client]:
    with Client(str(http_sqlite.base_url)) as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three pictures, in which the command is run."""
    for number, name in enumerate(("a.png", "b.png", "deep/c.png")):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pictures.plain(size=(4, 4 + number)))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "in"
