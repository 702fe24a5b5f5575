"""A run goes on from any folder, and writes where it was begun or nowhere."""

import contextlib
import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from tests import pictures
from tests.idefiq.cli.conftest import Command
from tests.played import Played

FOREIGN = '{"precious": "a file of mine"}\n'


def answers(path: Path) -> dict[str, str | None]:
    lines = map(json.loads, path.read_text().splitlines())
    return {line["file"]: line["answer"] for line in lines}


@pytest.fixture
def begun(
    command: Command, played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A run that was begun in `a`, with its output in `a/b` and one image that failed."""
    begun = tmp_path / "a"
    (begun / "b").mkdir(parents=True)
    (begun / "good.png").write_bytes(pictures.plain())
    (begun / "bad.png").write_bytes(b"")
    monkeypatch.chdir(begun)
    with played.running("seen"):
        command("caption", ".", "--out", "b/o.jsonl")
    assert answers(begun / "b" / "o.jsonl") == {"good.png": "seen", "bad.png": None}
    (begun / "bad.png").write_bytes(pictures.plain(size=(9, 9)))
    return begun


def test_retry_from_another_folder_writes_the_output_of_the_run_and_no_file_of_that_folder(
    begun: Path, command: Command, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = begun.parent / "c"
    (elsewhere / "b").mkdir(parents=True)
    (elsewhere / "b" / "o.jsonl").write_text(FOREIGN)
    monkeypatch.chdir(elsewhere)

    with played.running("seen again"):
        result = command("retry", "../a/b/o.jsonl")

    assert result.exit_code == 0, result.output
    assert answers(begun / "b" / "o.jsonl") == {"good.png": "seen", "bad.png": "seen again"}
    assert (elsewhere / "b" / "o.jsonl").read_text() == FOREIGN
    assert Path.cwd() == elsewhere


def test_the_same_run_goes_on_from_another_folder_and_asks_nothing_twice(
    begun: Path, command: Command, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(begun.parent)

    with played.running("seen again"):
        result = command("caption", "a", "--out", "a/b/o.jsonl")

    assert result.exit_code == 0, result.output
    assert answers(begun / "b" / "o.jsonl") == {"good.png": "seen", "bad.png": "seen again"}


def test_a_folder_may_be_moved_with_its_manifest(
    begun: Path, command: Command, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = begun.parent / "moved"
    monkeypatch.chdir(begun.parent)
    begun.rename(moved)

    with played.running("seen again"):
        result = command("retry", "moved/b/o.jsonl.idefiq")

    assert result.exit_code == 0, result.output
    assert answers(moved / "b" / "o.jsonl") == {"good.png": "seen", "bad.png": "seen again"}


@pytest.mark.parametrize("how", [["--out", "a/metadata.jsonl"], ["--sidecar", "txt"]])
@pytest.mark.parametrize("again", ["retry", "caption"])
def test_a_folder_of_images_may_be_renamed_with_its_manifest_in_it(
    how: list[str],
    again: str,
    command: Command,
    played: Played,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    Path("a/good.png").write_bytes(pictures.plain())
    Path("a/bad.png").write_bytes(b"")
    with played.running("seen"):
        command("caption", "a", *how)
    Path("a").rename("b")
    Path("b/bad.png").write_bytes(pictures.plain(size=(9, 9)))
    renamed = [word.replace("a/", "b/") for word in how]
    what = Path("b/metadata.jsonl") if "--out" in how else Path("b")

    with played.running("seen again"):
        words = ["retry", str(what)] if again == "retry" else ["caption", "b", *renamed]
        result = command(*words)

    assert result.exit_code == 0, result.output
    if "--out" in how:
        lines = map(json.loads, what.read_text().splitlines())
        found = {line["file_name"]: line["text"] for line in lines}
    else:
        found = {
            path.with_suffix(".png").name: path.read_text().strip() for path in what.glob("*.txt")
        }
    assert found == {"good.png": "seen", "bad.png": "seen again"}
    assert not Path("a").exists()


def test_a_manifest_that_lies_beside_no_output_of_its_run_writes_nothing(
    begun: Path, command: Command
) -> None:
    Path("elsewhere").mkdir()
    shutil.copy("b/o.jsonl.idefiq", "elsewhere/x.jsonl.idefiq")
    before = (begun / "b" / "o.jsonl").read_bytes()

    result = command("retry", "elsewhere/x.jsonl.idefiq")

    assert "is not beside the output of its run" in str(result.exception)
    assert (begun / "b" / "o.jsonl").read_bytes() == before
    assert not (begun / "elsewhere" / "x.jsonl").exists()


def test_a_manifest_of_version_0_1_0_is_retried_where_it_was_begun_and_nowhere_else(
    begun: Path, command: Command, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sqlite3.connect(begun / "b" / "o.jsonl.idefiq") as manifest:
        manifest.execute("DELETE FROM facts WHERE name IN ('begun_in', 'is_named')")
    manifest.close()
    (begun.parent / "b").mkdir()
    monkeypatch.chdir(begun.parent)
    refused = command("retry", "a/b/o.jsonl")
    monkeypatch.chdir(begun)

    with played.running("seen again"):
        result = command("retry", "b/o.jsonl")

    assert "repeat the run's own command in the folder where it began" in str(refused.exception)
    assert result.exit_code == 0, result.output
    assert answers(Path("b/o.jsonl")) == {"good.png": "seen", "bad.png": "seen again"}


def test_the_command_of_a_run_of_version_0_1_0_goes_on_where_it_was_begun_and_nowhere_else(
    begun: Path, command: Command, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sqlite3.connect(begun / "b" / "o.jsonl.idefiq") as manifest:
        manifest.execute("DELETE FROM facts WHERE name IN ('begun_in', 'begun_at', 'is_named')")
    manifest.close()
    (begun.parent / "b").mkdir()
    monkeypatch.chdir(begun.parent)
    refused = command("caption", "a", "--out", "a/b/o.jsonl")
    monkeypatch.chdir(begun)

    with played.running("seen again"):
        result = command("caption", ".", "--out", "b/o.jsonl")

    assert "repeat the run's own command in the folder where it began" in str(refused.exception)
    assert list((begun.parent / "b").iterdir()) == []
    assert result.exit_code == 0, result.output
    assert answers(Path("b/o.jsonl")) == {"good.png": "seen", "bad.png": "seen again"}


def test_a_manifest_of_a_chosen_name_that_was_copied_elsewhere_overwrites_nothing(
    command: Command, played: Played, folder: Path, tmp_path: Path
) -> None:
    for name in ("runs", "backup/runs"):
        Path(name).mkdir(parents=True)
    Path("in/empty.png").write_bytes(b"")
    with played.running("seen"):
        command("caption", "in", "--out", "o.jsonl", "--manifest", "runs/m.idefiq")
    shutil.copy("runs/m.idefiq", "backup/runs/m.idefiq")
    Path("backup/o.jsonl").write_text(FOREIGN)

    with played.running("seen again"):
        copied = command("retry", "backup/runs/m.idefiq")
        own = command("retry", "runs/m.idefiq")

    assert "is not beside the output of its run" in str(copied.exception)
    assert Path("backup/o.jsonl").read_text() == FOREIGN
    assert "retrying" in own.stderr


def test_a_glob_means_the_same_files_from_any_folder(
    begun: Path, command: Command, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = begun / "set[1]"
    inner.mkdir()
    (inner / "new.png").write_bytes(pictures.plain(size=(7, 7)))
    monkeypatch.chdir(inner)

    with played.running("found"):
        command("caption", "*.png", "--out", "../b/o.jsonl")

    assert answers(begun / "b" / "o.jsonl")["set[1]/new.png"] == "found"


@pytest.mark.parametrize("existing", ["append", "prepend"])
def test_a_text_that_cannot_be_read_is_left_as_it_is(
    existing: str, command: Command, played: Played, folder: Path
) -> None:
    (folder / "a.txt").mkdir()

    with played.running("seen"):
        result = command("caption", "in", "--sidecar", "txt", "--existing", existing)

    assert "in/a.png: its text a.txt cannot be read and was left as it is" in result.stderr
    assert (folder / "a.txt").is_dir()


@pytest.mark.parametrize("existing", ["append", "prepend"])
def test_a_text_that_is_not_utf_8_is_left_as_it_is_and_its_image_is_not_asked_about(
    existing: str, command: Command, played: Played, folder: Path
) -> None:
    latin, utf = folder / "a.txt", folder / "b.txt"
    latin.write_bytes(b"caf\xe9 at night\r\n")
    utf.write_bytes("  café\r\n".encode())

    with played.running("seen"):
        result = command("caption", "in", "--sidecar", "txt", "--existing", existing)

    assert result.exit_code == 1
    assert "in/a.png: its text a.txt is not UTF-8 and was left as it is" in result.stderr
    assert latin.read_bytes() == b"caf\xe9 at night\r\n"
    # Not a byte of the other one is lost either.
    theirs, ours = "  café\r\n".encode(), b"seen\n"
    assert utf.read_bytes() == (theirs + ours if existing == "append" else ours + theirs)


def test_retry_writes_a_text_that_was_mended_and_fails_again_while_it_is_not(
    command: Command, played: Played, folder: Path
) -> None:
    text = folder / "a.txt"
    text.write_bytes(b"caf\xe9\n")
    with played.running("seen"):
        command("caption", "in", "--sidecar", "txt", "--existing", "append")
        again = command("retry", "in")
        left = text.read_bytes()
        text.write_text("café\n", encoding="utf-8")
        mended = command("retry", "in")

    assert (again.exit_code, left) == (1, b"caf\xe9\n")
    assert "its text a.txt is not UTF-8" in again.stderr
    assert mended.exit_code == 0, mended.output
    assert text.read_text(encoding="utf-8") == "café\nseen\n"


def test_retry_asks_about_failures_of_every_source_that_the_output_has(
    command: Command, played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("p", "q"):
        Path(name).mkdir()
        Path(name, "good.png").write_bytes(pictures.plain(size=(5, ord(name) - 100)))
        Path(name, "bad.png").write_bytes(b"")
    with played.running("seen"):
        command("caption", "p", "--out", "o.jsonl")
        command("caption", "q", "--out", "o.jsonl")
        for name in ("p", "q"):
            Path(name, "bad.png").write_bytes(pictures.plain(size=(6, ord(name) - 100)))
        result = command("retry", "o.jsonl")

    assert result.exit_code == 0, result.output
    names = [f"{folder}/{name}.png" for folder in ("p", "q") for name in ("bad", "good")]
    assert answers(Path("o.jsonl")) == dict.fromkeys(names, "seen")


@pytest.mark.parametrize(("existing", "left"), [("skip", b"caf\xe9\n"), ("overwrite", b"seen\n")])
def test_a_text_that_is_not_utf_8_is_skipped_or_overwritten_like_any_other(
    existing: str, left: bytes, command: Command, played: Played, folder: Path
) -> None:
    (folder / "a.txt").write_bytes(b"caf\xe9\n")

    with played.running("seen"):
        result = command("caption", "in", "--sidecar", "txt", "--existing", existing)

    assert result.exit_code == 0, result.output
    assert (folder / "a.txt").read_bytes() == left


def test_a_run_of_release_0_1_is_resumed(
    command: Command, played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its manifest is as release 0.1.0 wrote it; one of three images had failed."""
    (tmp_path / "in").mkdir()
    for number, name in enumerate(("a.png", "b.png", "c.png")):
        (tmp_path / "in" / name).write_bytes(pictures.plain(size=(4, 4 + number)))
    dump = Path(__file__).parents[2] / "data" / "manifest_0_1.sql"
    with contextlib.closing(sqlite3.connect(tmp_path / "out.jsonl.idefiq")) as manifest:
        manifest.executescript(dump.read_text())
    monkeypatch.chdir(tmp_path)

    with played.running("a green square"):
        result = command("retry", "out.jsonl")

    assert result.exit_code == 0, result.output
    assert answers(tmp_path / "out.jsonl") == {
        "in/a.png": "a red square",
        "in/b.png": "a red square",
        "in/c.png": "a green square",
    }
