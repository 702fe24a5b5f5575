"""The key of a service that runs on this machine, found by its own user's programs."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from idefiq import local_service
from idefiq.protocol import Where

URL = "http://127.0.0.1:8123"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder of a service that was noted; it does not run yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "lock").touch()
    (folder / "api-key").write_text("idq_its_key\n")
    local_service.note(8123, folder)
    return folder


@pytest.fixture
def running(data: Path) -> Iterator[Path]:
    """The same while the service runs."""
    with (data / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield data


def header(url: str = URL, key: str | None = None) -> str | None:
    return Where.of(url, key).headers.get("Authorization")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_its_key_is_sent_to_a_service_of_this_user_that_runs(running: Path, host: str) -> None:
    assert header(f"http://{host}:8123") == "Bearer idq_its_key"


def test_another_key_comes_first(running: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert header(key="idq_mine") == "Bearer idq_mine"
    monkeypatch.setenv("IDEFIQ_API_KEY", "idq_env")
    assert header() == "Bearer idq_env"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8124",
        "http://127.0.0.1",
        "http://example.com:8123",
        "http://127.0.0.1.example.com:8123",
        "http://user@example.com:8123/127.0.0.1",
        "https://127.0.0.1:8123",
        "http://127.0.0.1:x",
    ],
)
def test_it_is_sent_nowhere_else(running: Path, url: str) -> None:
    assert header(url) is None


def test_it_is_not_sent_when_the_service_has_ended(data: Path) -> None:
    """Whatever listens on its port now is not the service."""
    assert header() is None


def test_nothing_is_found_where_nothing_was_noted(running: Path) -> None:
    local_service.forget(8123)

    assert header() is None


def test_a_user_without_a_home_folder_has_no_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))

    local_service.note(8123, tmp_path)
    local_service.forget(8123)

    assert header() is None


def test_notes_are_for_their_user_alone(data: Path) -> None:
    folder = Path(os.environ["XDG_STATE_HOME"]) / "idefiq"  # noqa: TID251 - set above

    assert folder.stat().st_mode & 0o777 == 0o700
