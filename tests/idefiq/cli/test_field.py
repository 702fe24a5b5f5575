"""Tables and shards as people have them: nothing is mangled or left out in silence."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from idefiq.errors import IdefiqError
from tests import pictures
from tests.idefiq.cli.conftest import Command
from tests.played import Played

issue_25 = pytest.mark.xfail(
    raises=AssertionError, reason="issue 25: no file is lost, skipped or mangled in silence"
)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def captioned(command: Command, played: Played, source: str) -> tuple[Any, list[dict[str, Any]]]:
    """What a run of a table says, and its rows."""
    with played.running("seen"):
        result = command("caption", source, "--out", "out.jsonl", "--image-column", "file_name")
    out = Path("out.jsonl")
    return result, rows(out) if out.exists() else []


def is_clear(result: Any) -> bool:
    """Whether a refusal is a message for people."""
    return isinstance(result.exception, IdefiqError | SystemExit)


# ---- tables --------------------------------------------------------------------------


@issue_25
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_table_of_another_encoding_keeps_its_meaning_or_is_refused_by_name(
    encoding: str,
    command: Command,
    played: Played,
    folder: Path,
) -> None:
    Path("t.csv").write_bytes("file_name,text\nin/a.png,café déjà\n".encode(encoding))

    result, found = captioned(command, played, "t.csv")

    refused = is_clear(result) and encoding in str(result.exception or result.stderr).lower()
    assert refused or [row["text"] for row in found] == ["café déjà"]


@issue_25
def test_a_lone_surrogate_in_a_cell_is_no_traceback(
    command: Command,
    played: Played,
    folder: Path,
) -> None:
    Path("t.jsonl").write_text('{"file_name": "in/a.png", "x": "\\ud83d"}\n')

    result, found = captioned(command, played, "t.jsonl")

    assert is_clear(result) or (result.exception is None and len(found) == 1)


@issue_25
def test_what_is_no_number_in_json_is_never_written_as_json(
    command: Command,
    played: Played,
    folder: Path,
) -> None:
    Path("t.jsonl").write_text('{"file_name": "in/a.png", "x": NaN}\n')

    captioned(command, played, "t.jsonl")

    assert "NaN" not in Path("out.jsonl").read_text()


@issue_25
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "file_name;text\nin/a.png;x\n"),
        ("t.json", '[{"file_name": "in/a.png", "text": "x"}]'),
        ("t.txt", "in/a.png\n"),
    ],
)
def test_semicolons_json_arrays_and_lists_of_paths_are_tables_too(
    name: str,
    text: str,
    command: Command,
    played: Played,
    folder: Path,
) -> None:
    Path(name).write_text(text)

    _, found = captioned(command, played, name)

    assert [row["answer"] for row in found] == ["seen"]
    assert "in/a.png" in found[0].values()


def test_a_row_without_its_image_fails_alone_and_is_listed(
    command: Command,
    played: Played,
    folder: Path,
) -> None:
    Path("t.csv").write_text("file_name,c\nin/none.png,a\nin/a.png,b\n")

    result, found = captioned(command, played, "t.csv")

    assert result.exit_code == 1
    assert [(row["c"], row["answer"]) for row in found] == [("a", None), ("b", "seen")]


@issue_25
@pytest.mark.parametrize("kind", ["dictionary", "list"])
def test_parquet_columns_of_dictionaries_and_lists_name_images_too(
    kind: str,
    command: Command,
    played: Played,
    folder: Path,
) -> None:
    names = ["in/a.png", "in/b.png"]
    column = pa.array(names).dictionary_encode() if kind == "dictionary" else pa.array([names])
    pyarrow.parquet.write_table(pa.table({"file_name": column}), "t.parquet")

    _, found = captioned(command, played, "t.parquet")

    assert [row["answer"] for row in found] == ["seen", "seen"]


# ---- shards --------------------------------------------------------------------------


def shard(names: list[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number, name in enumerate(names):
            data = pictures.plain(size=(5, 5 + number))
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@issue_25
@pytest.mark.parametrize("fault", ["a header with a flipped byte", "a cut inside a header"])
def test_an_error_of_a_broken_shard_names_the_position(
    fault: str,
    command: Command,
    played: Played,
    folder: Path,
) -> None:
    whole = bytearray(shard([f"{number}.png" for number in range(4)]))
    third = 2 * 1024
    if fault.startswith("a header"):
        whole[third + 150] ^= 1
        broken = bytes(whole)
    else:
        broken = bytes(whole[: third + 100])
    Path("s.tar").write_bytes(broken)

    result, found = captioned(command, played, "s.tar")

    assert result.exit_code == 1
    assert [row["answer"] for row in found if row["answer"]] == ["seen", "seen"]
    assert str(third) in result.stderr
