"""Every kind of source gives its images, in order, and says what cannot be read."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from idefiq.bulk.reader import Reader
from idefiq.bulk.records import Record, safe
from idefiq.bulk.sources import check, find, is_bucket
from idefiq.errors import IdefiqError
from tests import pictures


def keys(*words: object, **options: Any) -> list[str]:
    return [record.key for record in find([str(word) for word in words], **options)]


def records(path: Path, **options: Any) -> list[Record]:
    return list(find([str(path)], **options))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.png", "deep/c.webp", ".git/d.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def test_a_folder_gives_its_images_in_order_without_what_is_hidden(folder: Path) -> None:
    assert keys(folder) == [f"{folder}/{name}" for name in ("a.png", "b.JPG", "deep/c.webp")]
    assert keys(folder, recursive=False) == [f"{folder}/{name}" for name in ("a.png", "b.JPG")]


def test_globs_and_files_are_taken_as_they_are_named(folder: Path) -> None:
    assert keys(f"{folder}/**/*.webp", folder / "notes.txt") == [
        f"{folder}/deep/c.webp",
        f"{folder}/notes.txt",
    ]


def test_references_go_to_the_service_as_they_are() -> None:
    [web, bucket] = find(["https://example.com/a.jpg", "s3://photos/b.jpg"])

    assert (web.location, bucket.location) == (
        {"reference": "https://example.com/a.jpg"},
        {"reference": "s3://photos/b.jpg"},
    )
    assert [is_bucket(word) for word in ("s3://photos/b/", "s3://photos", "s3://photos/b.jpg")] == [
        True,
        True,
        False,
    ]


def test_a_missing_source_is_reported_before_any_work(tmp_path: Path) -> None:
    for word in (str(tmp_path / "none"), str(tmp_path / "*.png")):
        with pytest.raises(IdefiqError, match="no such file"):
            check([word])


def test_a_changed_file_has_another_stamp(folder: Path) -> None:
    before = records(folder)[0].stamp
    (folder / "a.png").write_bytes(b"another")

    assert records(folder)[0].stamp != before


class TestTables:
    def test_csv_rows_keep_their_columns_and_find_files_beside_the_table(
        self, tmp_path: Path
    ) -> None:
        table = tmp_path / "in.csv"
        table.write_text("\ufefffile_name,product\na.png,shoe\nhttps://x.org/b.png,hat\n,none\n")

        first, second, third = records(table)

        assert first == Record(
            f"{table}:1",
            {"file": str(tmp_path / "a.png")},
            {"file_name": "a.png", "product": "shoe"},
            first.stamp,
            place="a.png",
            source=str(table),
        )
        assert second.location == {"reference": "https://x.org/b.png"}
        assert third.error == "the row names no image"

    def test_json_lines_may_be_objects_or_names_and_a_bad_line_fails_alone(
        self, tmp_path: Path
    ) -> None:
        table = tmp_path / "in.jsonl"
        lines = ['{"image": "a.png", "n": 1}', '"b.png"', "{", "7", '{"n": 2}', '{"images":["c"]}']
        table.write_text("\n".join(lines))

        found = records(table)

        assert [record.location.get("file") for record in found] == [
            str(tmp_path / "a.png"),
            str(tmp_path / "b.png"),
            None,
            None,
            None,
            str(tmp_path / "c"),
        ]
        assert [bool(record.error) for record in found] == [False, False, True, True, True, False]

    def test_parquet_may_name_images_or_hold_them(self, tmp_path: Path) -> None:
        data = [pictures.plain(size=(4, 4 + n)) for n in range(5)]
        held = pyarrow.table(
            {"image": [{"bytes": each, "path": None} for each in data], "n": range(5)}
        )
        pyarrow.parquet.write_table(held, tmp_path / "held.parquet", row_group_size=2)
        named = pyarrow.table({"url": ["https://x.org/a.png"], "old": ["a dog"]})
        pyarrow.parquet.write_table(named, tmp_path / "named.parquet")

        found = records(tmp_path / "held.parquet")
        [other] = records(tmp_path / "named.parquet")
        reader = Reader(tmp_path)

        assert [record.columns for record in found] == [
            {"n": n, "file": f"held.parquet:{n + 1}"} for n in range(5)
        ]
        assert [reader.path(record.location).read_bytes() for record in found] == data
        assert other.columns == {"url": "https://x.org/a.png", "old": "a dog"}

    def test_the_image_column_can_be_named_and_must_exist(self, tmp_path: Path) -> None:
        table = tmp_path / "in.csv"
        table.write_text("image,second\na.png,b.png\n")

        [record] = records(table, image_column="second")

        assert record.location == {"file": str(tmp_path / "b.png")}
        with pytest.raises(IdefiqError, match="no column 'third'; it has image, second"):
            records(table, image_column="third")


class TestPlaces:
    def test_they_keep_the_tree_below_the_source(self, folder: Path) -> None:
        table = folder / "in.csv"
        table.write_text("image\ndeep/c.webp\nhttps://x.org/s/b.png?x=1\n")
        words = [str(folder), f"{folder}/**/*.webp", f"{folder}/a.png", str(table)]

        places = [[record.place for record in find([word])] for word in words]

        assert places == [
            ["a.png", "b.JPG", "deep/c.webp"],
            ["deep/c.webp"],
            ["a.png"],
            ["deep/c.webp", "s/b.png"],
        ]

    @pytest.mark.parametrize(
        ("name", "place"),
        [
            ("../../etc/a.png", "etc/a.png"),
            ("/etc/a.png", "etc/a.png"),
            ("s3://b/../../a.png", "a.png"),
            ("..", "unnamed"),
            ("a\\..\\b", "a_.._b"),
            ("data:image/png;base64,//AA", "unnamed"),
        ],
    )
    def test_none_leads_out_of_the_folder(self, name: str, place: str) -> None:
        assert safe(name) == place


class TestChanges:
    def test_a_row_changes_with_its_words_and_with_its_file(self, folder: Path) -> None:
        table = folder / "in.csv"
        stamps = []
        for text, data in (("shoe", b"1"), ("hat", b"1"), ("hat", b"22")):
            table.write_text(f"image,product\na.png,{text}\n")
            (folder / "a.png").write_bytes(data)
            stamps.append(records(table)[0].stamp)

        assert len(set(stamps)) == 3

    def test_a_table_that_breaks_off_gives_what_it_has(self, tmp_path: Path) -> None:
        broken = tmp_path / "a.parquet"
        broken.write_bytes(b"PAR1 and no more")
        nul = tmp_path / "b.jsonl"
        nul.write_bytes(b'"a.png"\n')

        [record] = records(broken)

        assert str(record.error).startswith("the table cannot be read any further")
        assert len(records(nul)) == 1


def test_a_cell_may_be_as_long_as_an_image(tmp_path: Path) -> None:
    table = tmp_path / "in.csv"
    table.write_text(f'image\n"data:image/png;base64,{"A" * 200_000}"\n')

    [record] = records(table)

    assert len(record.location["reference"]) > 200_000


def test_the_first_of_a_list_of_images_in_a_row_is_used(tmp_path: Path) -> None:
    data = pictures.plain()
    held = pyarrow.table({"images": [[{"bytes": data, "path": None}], []]})
    pyarrow.parquet.write_table(held, tmp_path / "held.parquet")

    first, second = records(tmp_path / "held.parquet")

    assert Reader(tmp_path).path(first.location).read_bytes() == data
    with pytest.raises(IdefiqError, match="has no image"):
        Reader(tmp_path).path(second.location)


def test_a_shard_gives_the_images_that_are_packed_in_it(tmp_path: Path) -> None:
    data = pictures.plain()
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in (("0001.png", data), ("0001.txt", b"old"), ("0002.jpg", data[::-1])):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (tmp_path / "bad.tar").write_bytes(b"no tar" * 200)

    first, second = records(tmp_path / "a.tar")
    [bad] = records(tmp_path / "bad.tar")
    reader = Reader(tmp_path)

    assert [reader.path(each.location).read_bytes() for each in (first, second)] == [
        data,
        data[::-1],
    ]
    assert first.key == f"{tmp_path}/a.tar/0001.png"
    assert json.dumps(first.location)
    assert str(bad.error).startswith("no readable tar")
