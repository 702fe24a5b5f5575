"""Every form of output holds what was said, whole."""

import csv
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from idefiq.bulk import formats
from idefiq.bulk.ask import Ask, Plan
from idefiq.bulk.choose_output import choose_output
from idefiq.bulk.images import Image
from idefiq.bulk.records import Record
from idefiq.errors import IdefiqError
from tests import pictures


def image(key: str, text: str | None, error: str | None = None, **columns: Any) -> Image:
    answer = {"text": text} if text is not None else None
    location = {"file": key}
    return Image(
        1, key, location, {"file": key, **columns}, None, None, "", "done", answer, error, None
    )


def plan(out: object = None, **fields: Any) -> Plan:
    whole = {"sources": ["photos"], "ask": Ask({"kind": "caption"}), **fields}
    return Plan(out=str(out) if out else None, **whole)


IMAGES = [
    image("photos/a.png", 'a "red" star,\nsmall', product="star"),
    image("photos/deep/b.png", None, "no image"),
]


def test_columns_of_the_source_that_have_our_names_are_kept_under_others() -> None:
    asked = image("a.png", "ours", answer="theirs", model="old")

    assert formats.row(plan(model="demo"), asked) == {
        "file": "a.png",
        "source_answer": "theirs",
        "source_model": "old",
        "answer": "ours",
        "error": None,
        "model": "demo",
    }


class TestTables:
    def test_json_lines_keep_the_columns(self, tmp_path: Path) -> None:
        out = tmp_path / "out.jsonl"

        choose_output(plan(out, model="demo", prefix="It is ")).write(IMAGES, [])

        assert [json.loads(line) for line in out.read_text().splitlines()] == [
            {
                "file": "photos/a.png",
                "product": "star",
                "answer": 'It is a "red" star,\nsmall',
                "error": None,
                "model": "demo",
            },
            {"file": "photos/deep/b.png", "answer": None, "error": "no image", "model": "demo"},
        ]

    @pytest.mark.parametrize(("name", "dialect"), [("out.csv", "excel"), ("out.tsv", "excel-tab")])
    def test_csv_has_every_column_of_any_row(self, tmp_path: Path, name: str, dialect: str) -> None:
        out = tmp_path / name

        choose_output(plan(out)).write(IMAGES, [])

        with out.open(newline="", encoding="utf-8") as file:
            first, second = csv.DictReader(file, dialect=dialect)
        assert first == {
            "file": "photos/a.png",
            "product": "star",
            "answer": 'a "red" star,\nsmall',
            "error": "",
        }
        assert (second["product"], second["error"]) == ("", "no image")

    def test_parquet_has_every_column_of_any_row(self, tmp_path: Path) -> None:
        out = tmp_path / "out.parquet"

        choose_output(plan(out)).write([image("x.png", None, "no image"), *IMAGES], [])

        rows = pyarrow.parquet.read_table(out).to_pylist()
        assert [row["answer"] for row in rows] == [None, 'a "red" star,\nsmall', None]
        assert [row["product"] for row in rows] == [None, "star", None]

    def test_each_field_of_a_schema_is_a_column_whether_or_not_there_is_an_answer(
        self, tmp_path: Path
    ) -> None:
        out = tmp_path / "out.parquet"
        fields = {"count": {"type": "integer"}, "file": {"type": "string"}, "error": {}}
        ask = Ask({"kind": "vqa", "schema": {"properties": fields}})
        data = {"count": 3, "file": "x", "error": "y"}
        made = [
            replace(image("a.png", "{}", None), answer={"text": "{}", "data": data}),
            image("b.png", '{"count":', None),
            image("c.png", None, "no image"),
        ]

        choose_output(replace(plan(out), ask=ask)).write(made, [])

        assert pyarrow.parquet.read_table(out).to_pylist() == [
            {"source_file": "a.png", "count": 3, "file": "x", "answer_error": "y"}
            | {"answer": "{}", "error": None},
            {"source_file": "b.png", "count": None, "file": None, "answer_error": None}
            | {"answer": '{"count":', "error": None},
            {"source_file": "c.png", "count": None, "file": None, "answer_error": None}
            | {"answer": None, "error": "no image"},
        ]

    def test_parquet_is_written_in_parts_whose_columns_may_differ(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(formats, "PARQUET_ROWS", 2)
        out = tmp_path / "out.parquet"
        columns: list[dict[str, Any]] = [
            {},
            {"n": 1},
            {"n": 1.5, "id": 7},
            {"id": "x"},
            {"id": [1]},
        ]
        made = [image(f"{n}.png", "text", None, **each) for n, each in enumerate(columns)]

        choose_output(plan(out)).write(made, [])

        rows = pyarrow.parquet.read_table(out).to_pylist()
        assert [row["n"] for row in rows] == [None, 1.0, 1.5, None, None]
        assert [row["id"] for row in rows] == [None, None, "7", "x", "[1]"]

    def test_an_output_without_a_single_answer_is_still_a_table(self, tmp_path: Path) -> None:
        for name in ("out.parquet", "out.csv", "out.jsonl", "out.txt"):
            choose_output(plan(tmp_path / name)).write([], [])
            assert (tmp_path / name).exists()

    def test_text_has_one_line_for_each_answer(self, tmp_path: Path) -> None:
        out = tmp_path / "out.txt"

        choose_output(plan(out)).write(IMAGES, [])

        assert out.read_text() == 'photos/a.png\ta "red" star, small\n'

    @pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
    def test_metadata_is_what_hugging_face_expects(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        (tmp_path / "photos").mkdir()
        monkeypatch.chdir(tmp_path)

        choose_output(plan(f"photos/{name}")).write(IMAGES, [])

        text = (tmp_path / "photos" / name).read_text()
        assert "a.png" in text
        assert "photos/a.png" not in text
        assert "b.png" not in text


def test_shards_of_an_earlier_run_are_replaced_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(pictures.plain())
    made = [replace(image(str(tmp_path / "a.png"), "text"), number=n) for n in range(1, 5)]
    output = choose_output(plan(tmp_path / "out-%03d.tar", shard_items=2))

    assert not output.is_there()
    first = output.write(made, [])
    (tmp_path / "out-007.tar").write_bytes(b"of others")
    second = output.write(made[:2], first)

    assert output.is_there()
    assert (first, second) == (["out-000.tar", "out-001.tar"], ["out-000.tar"])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a.png", "out-000.tar", "out-007.tar"]


def test_foreign_shards_are_replaced_only_with_overwrite(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(pictures.plain())
    (tmp_path / "out-001.tar").write_bytes(b"precious")
    made = [replace(image(str(tmp_path / "a.png"), "text"), number=n) for n in range(1, 3)]
    chosen = plan(tmp_path / "out-%03d.tar", shard_items=1)

    with pytest.raises(IdefiqError, match="is there, and not of this run"):
        choose_output(chosen).write(made, [])
    assert (tmp_path / "out-001.tar").read_bytes() == b"precious"
    assert not (tmp_path / "out-000.tar").exists()

    choose_output(replace(chosen, existing="overwrite")).write(made, [])
    assert (tmp_path / "out-001.tar").read_bytes() != b"precious"


def test_shards_hold_image_text_and_json(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(pictures.plain(size=(4, 4 + number)))
    made = [replace(image(str(tmp_path / f"{n}.png"), f"text {n}"), number=n + 1) for n in range(3)]
    made.append(replace(made[0], number=9, location={"reference": "https://x.org/a.png"}))

    choose_output(plan(tmp_path / "out-%03d.tar", shard_items=3)).write(made, [])

    with tarfile.open(tmp_path / "out-000.tar") as tar:
        names = tar.getnames()
        text = tar.extractfile("000000002.txt")
        assert text
        assert text.read() == b"text 1"
    assert names[:3] == ["000000001.json", "000000001.png", "000000001.txt"]
    with tarfile.open(tmp_path / "out-001.tar") as tar:
        assert tar.getnames() == ["000000009.json", "000000009.txt"]


def found(key: str, place: str = "unnamed", **location: str) -> Record:
    return Record(key, location or {"file": key}, place=place)


class Writer:
    """Writes one text file as a run does, with a manifest's memory."""

    def __init__(self, path: Path, existing: str) -> None:
        self.path, self.crashes = path, False
        self._output = choose_output(plan(f"{path.parent}/", existing=existing))
        self._image = replace(image("a.png", ""), text_file=str(path))

    def write(self, said: str) -> str:
        self._image = replace(self._image, answer={"text": said})
        self._output.write_text(self._image, self._note)
        return self.path.read_text()

    def _note(self, _: Image, before: str | None, digest: str) -> None:
        digests = f"{digest} {self._image.digests}"[:80]
        self._image = replace(self._image, before=before, digests=digests)
        if self.crashes:
            raise ZeroDivisionError


class TestTexts:
    def test_they_lie_beside_their_images_or_in_the_same_tree_elsewhere(
        self, tmp_path: Path
    ) -> None:
        record = found("photos/deep/a.png", "deep/a.png")
        elsewhere = tmp_path / "out" / "deep"

        beside = choose_output(plan(sidecar=".caption")).texts(record)
        tree = choose_output(plan(f"{tmp_path}/out/")).texts(record)
        web = choose_output(plan(sidecar=".txt")).texts(found("x", reference="https://x.org/a"))

        assert beside == [Path("photos/deep/a.caption"), Path("photos/deep/a.png.caption")]
        assert tree[:3] == [
            elsewhere / "a.txt",
            elsewhere / "a.png.txt",
            elsewhere / "a.png-2.txt",
        ]
        assert web == []
        assert "use --out FOLDER/" in str(
            choose_output(plan(sidecar=".txt")).misfit(found("x", reference="https://x.org/a"))
        )

    @pytest.mark.parametrize(
        ("existing", "there", "text"),
        [
            ("overwrite", "old\n", "<new>\n"),
            ("append", "old\n", "old\n<new>\n"),
            ("prepend", "old\n", "<new>\nold\n"),
            ("append", None, "<new>\n"),
            ("skip", "old\n", "old\n"),
            ("skip", None, "<new>\n"),
        ],
    )
    def test_an_existing_text_is_treated_as_requested_however_often_the_run_repeats(
        self, tmp_path: Path, existing: str, there: str | None, text: str
    ) -> None:
        writer = Writer(tmp_path / "a.txt", existing)
        if there:
            writer.path.write_text(there)

        found = [writer.write("<new>") for _ in range(2)]

        assert found == [text, text]

    def test_what_others_write_later_is_kept_and_what_is_ours_is_renewed(
        self, tmp_path: Path
    ) -> None:
        skipping = Writer(tmp_path / "a.txt", "skip")
        appending = Writer(tmp_path / "b.txt", "append")
        appending.path.write_text("old\n")
        for writer in (skipping, appending):
            writer.write("one")
            writer.write("two")
            writer.path.write_text(writer.path.read_text() + "by hand\n")
            writer.write("three")

        assert skipping.path.read_text() == "two\nby hand\n"
        assert appending.path.read_text() == "old\ntwo\nby hand\nthree\n"

    def test_a_text_that_was_deleted_is_written_again(self, tmp_path: Path) -> None:
        writer = Writer(tmp_path / "a.txt", "skip")
        writer.write("one")
        writer.path.unlink()

        assert writer.write("one") == "one\n"

    def test_a_crash_after_the_note_appends_nothing_twice(self, tmp_path: Path) -> None:
        writer = Writer(tmp_path / "a.txt", "append")
        writer.path.write_text("old\n")
        writer.crashes = True
        with pytest.raises(ZeroDivisionError):
            writer.write("one")
        writer.crashes = False

        assert writer.write("one") == "old\none\n"

    def test_a_file_is_replaced_whole_or_not_at_all(self, tmp_path: Path) -> None:
        path = tmp_path / "out.jsonl"
        path.write_text("before")

        def break_off() -> None:
            with formats.replacing(path) as file:
                file.write(b"half")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            break_off()

        assert path.read_text() == "before"
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"out": "out.xml"}, "write to a .jsonl"),
        ({"out": ".jsonl"}, "write to a .jsonl"),
        ({"out": "nowhere/out.csv"}, "no such folder: 'nowhere'"),
        ({"out": "out.tar"}, "shards are numbered"),
        ({"out": "out.csv", "sidecar": ".txt"}, "is one file: --sidecar is for texts"),
        ({"out": "a-%d-%d.tar"}, "shards are numbered"),
        ({"out": " "}, "--out is empty"),
        ({"out": "out.csv", "existing": "append"}, "--existing append is for texts"),
        ({"sidecar": ".doc"}, "a sidecar must be one of .txt, .caption"),
    ],
)
def test_an_output_that_cannot_be_written_is_reported_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], says: str
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(IdefiqError, match=says):
        choose_output(plan(**fields))
