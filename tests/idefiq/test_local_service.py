"""The key of a service that runs on this machine, found by its own user's programs."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from idefiq import local_service
from idefiq.errors import IdefiqError
from idefiq.protocol import Where

URL = "http://127.0.0.1:8123"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder of a service that was noted; it does not run yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "api-key").write_text("idq_its_key\n")
    with local_service.lock(folder) as locked:
        local_service.note(locked, "127.0.0.1", 8123, folder)
    return folder


@pytest.fixture
def running(data: Path) -> Iterator[Path]:
    """The same while the service runs."""
    with local_service.lock(data) as locked:
        local_service.note(locked, "127.0.0.1", 8123, data)
        yield data


def header(url: str = URL, key: str | None = None) -> str | None:
    return Where.of(url, key).headers.get("Authorization")


def test_its_key_is_sent_to_a_service_of_this_user_that_runs(running: Path) -> None:
    assert header() == "Bearer idq_its_key"


def test_a_second_service_leaves_the_lock_of_the_first_as_it_is(running: Path) -> None:
    with pytest.raises(IdefiqError, match="another `idefiq up`"):
        local_service.lock(running)

    assert header() == "Bearer idq_its_key"


def test_another_key_comes_first(running: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert header(key="idq_mine") == "Bearer idq_mine"
    monkeypatch.setenv("IDEFIQ_API_KEY", "idq_env")
    assert header() == "Bearer idq_env"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8124",
        "http://127.0.0.2:8123",
        "http://[::1]:8123",  # another program may listen there, and under other names too
        "http://localhost:8123",
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


def test_a_note_that_a_killed_service_left_behind_gives_its_key_to_no_other_port(
    running: Path,
) -> None:
    """The same data folder is served on another port now, and somebody else has the old one."""
    state = Path(os.environ["XDG_STATE_HOME"]) / "idefiq"  # noqa: TID251 - set above
    (state / "port-8000").write_text(str(running))

    assert header("http://127.0.0.1:8000") is None


def test_nothing_is_found_where_nothing_was_noted(running: Path) -> None:
    local_service.forget(8123)

    assert header() is None


def test_a_user_without_a_home_folder_has_no_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))

    with local_service.lock(tmp_path) as locked:
        local_service.note(locked, "127.0.0.1", 8123, tmp_path)
    local_service.forget(8123)

    assert header() is None


def test_a_user_without_a_name_and_a_home_has_no_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", no_home)

    with local_service.lock(tmp_path) as locked:
        local_service.note(locked, "127.0.0.1", 8123, tmp_path)
    local_service.forget(8123)

    assert header() is None


@pytest.mark.parametrize(
    ("url", "is_this_machine"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://localhost", True),
        ("http://[::1]:8000", True),
        ("https://localhost", False),
        ("http://example.com", False),
    ],
)
def test_no_proxy_is_asked_for_this_machine(url: str, *, is_this_machine: bool) -> None:
    assert local_service.is_loopback(url) is is_this_machine


def test_notes_are_for_their_user_alone(data: Path) -> None:
    folder = Path(os.environ["XDG_STATE_HOME"]) / "idefiq"  # noqa: TID251 - set above

    assert folder.stat().st_mode & 0o777 == 0o700
