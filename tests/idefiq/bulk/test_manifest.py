"""The memory of a run: every step is written down, and may be taken again."""

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from idefiq import Result
from idefiq.bulk.ask import Ask, Plan
from idefiq.bulk.manifest import Manifest
from idefiq.bulk.records import Record
from idefiq.bulk.text_files import TextFiles
from idefiq.errors import IdefiqError

PLAN = Plan(sources=["photos"], ask=Ask({"kind": "vqa"}, "question", "Is it a {what}?"))
OUTPUT = TextFiles(PLAN)


def record(name: str, stamp: str = "1", **columns: Any) -> Record:
    return Record(name, {"file": name}, {"file": name, **columns}, stamp, source="photos")


def result(index: int, text: str | None = "yes", **detail: Any) -> Result:
    answer = {"text": text, **detail} if text is not None else None
    state = "succeeded" if answer else "failed"
    error = None if answer else "no image"
    code = None if answer else "image_unreadable"
    return Result(index, None, state, [], text, answer, code, error)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl.idefiq"


@pytest.fixture
def manifest(path: Path) -> Manifest:
    made = Manifest(path)
    made.run.begin(PLAN)
    note(made, *(record(name, what=name) for name in "abc"))
    return made


def note(
    manifest: Manifest, *records: Record, texts: dict[str, Path] | None = None, skip: bool = True
) -> None:
    manifest.images.begin_scan(skip=skip)
    places = texts or {}
    found = [(each, [places[each.key]] if each.key in places else []) for each in records]
    manifest.images.add(found, OUTPUT.text_before, skip=skip)


def reopened(manifest: Manifest) -> Manifest:
    manifest.close()
    assert manifest.path
    return Manifest(manifest.path)


def sent(manifest: Manifest) -> Any:
    asked = [
        (image, {"images": [f"blob:{image.key}"]}) for image in manifest.images.in_state("new")
    ]
    return manifest.chunks.assign(asked, {"name": "run"})


def test_what_was_assigned_is_asked_in_the_same_words_after_a_crash(manifest: Manifest) -> None:
    chunk = sent(manifest)
    before = manifest.chunks.items(chunk)

    again = reopened(manifest)
    [opened] = again.chunks.unfinished()

    assert (opened, again.chunks.items(opened)) == (chunk, before)
    assert before[0] == {"images": ["blob:a"]}
    assert again.images.counts() == {"sent": 3}


def test_answers_and_errors_are_taken_page_by_page_and_once(manifest: Manifest) -> None:
    chunk = sent(manifest)
    manifest.chunks.submitted(chunk, "job_1")
    manifest.chunks.take(chunk, [result(1), result(0, None)], "after 2")
    manifest.chunks.take(chunk, [result(1, "no")], "after 2")

    again = reopened(manifest)

    [opened] = again.chunks.unfinished()
    assert (opened.job_id, opened.cursor) == ("job_1", "after 2")
    assert again.images.counts() == {"done": 1, "failed": 1, "sent": 1}
    assert [image.answer_text for image in again.images.in_state("done")] == ["yes"]
    again.chunks.take(opened, [result(2)], "after 3")
    again.chunks.end(opened)
    assert (again.chunks.unfinished(), again.images.counts()) == ([], {"done": 2, "failed": 1})


def test_a_label_that_is_none_of_those_asked_for_is_a_failure(manifest: Manifest) -> None:
    chunk = sent(manifest)
    manifest.chunks.take(chunk, [result(0, "A cat.", label="cat"), result(1, "?", label=None)], "x")

    assert [image.answer_text for image in manifest.images.in_state("done")] == ["cat"]
    [failed] = manifest.images.in_state("failed")
    assert failed.error == "the answer names none of the labels: '?'"


def test_known_images_are_not_asked_about_again_unless_they_have_changed(
    manifest: Manifest,
) -> None:
    chunk = sent(manifest)
    manifest.chunks.take(chunk, [result(n) for n in range(3)], "x")
    manifest.chunks.end(chunk)

    note(manifest, record("a"), record("b", "2"), record("d"))

    assert [image.key for image in manifest.images.in_state("new")] == ["b", "d"]
    assert [image.key for image in manifest.images.in_state("done")] == ["a"]  # c is gone


def test_a_moved_row_is_recognized_by_its_contents(manifest: Manifest) -> None:
    note(manifest, record("a", "2", what="other"))

    [image] = manifest.images.in_state("new")
    assert image.columns["what"] == "other"


class TestTexts:
    def test_an_image_with_a_text_file_is_skipped_and_no_two_images_share_one(
        self, manifest: Manifest, tmp_path: Path
    ) -> None:
        (tmp_path / "a.txt").write_text("by hand")
        texts = {"a": tmp_path / "a.txt", "b": tmp_path / "b.txt", "c": tmp_path / "b.txt"}

        note(manifest, *map(record, "abc"), texts=texts)

        assert manifest.images.counts() == {"skipped": 1, "new": 2}
        assert [image.text_file for image in manifest.images.in_state("new")] == [
            str(tmp_path / "b.txt"),
            None,
        ]

    def test_what_was_skipped_is_asked_about_when_it_is_to_be_overwritten(
        self, manifest: Manifest, tmp_path: Path
    ) -> None:
        (tmp_path / "a.txt").write_text("by hand")
        texts = {"a": tmp_path / "a.txt"}
        note(manifest, record("a"), texts=texts)

        note(manifest, record("a"), texts=texts, skip=False)

        [image] = manifest.images.in_state("new")
        assert image.before == "by hand"


def test_a_restart_asks_about_everything_but_remembers_what_was_there(
    manifest: Manifest, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("by hand")
    note(manifest, *map(record, "ab"), texts={"a": tmp_path / "a.txt"}, skip=False)
    chunk = sent(manifest)
    manifest.chunks.take(chunk, [result(0), result(1)], "x")

    manifest.chunks.forget()

    assert [image.before for image in manifest.images.in_state("new")] == ["by hand", None]
    assert manifest.chunks.unfinished() == []


def test_a_bucket_is_heard_of_once_and_one_that_fails_is_listed_again(path: Path) -> None:
    source = "s3://photos/"
    manifest = Manifest(path)
    manifest.run.begin(replace(PLAN, sources=[source]))
    manifest.chunks.assign_bucket(source, {})
    manifest.chunks.assign_bucket(source, {})
    [chunk] = manifest.chunks.unfinished()
    found: Any = [
        (n, (Record(f"{source}{n}", {"reference": f"{source}{n}"}), [])) for n in range(2)
    ]

    for _ in range(2):
        manifest.chunks.hear_of(chunk, found, OUTPUT.text_before, skip=True)
        manifest.chunks.take(chunk, [result(0), result(1, None)], "x")

    assert manifest.images.counts() == {"done": 1, "failed": 1}
    manifest.chunks.fail_bucket(chunk, "it is gone")
    assert manifest.images.counts() == {"done": 1, "failed": 2}
    assert manifest.images.retry() == 2
    manifest.chunks.assign_bucket(source, {})
    assert [each.source for each in manifest.chunks.unfinished()] == [source]


def test_images_that_were_never_sent_are_read_again(manifest: Manifest) -> None:
    for image in manifest.images.in_state("new"):
        manifest.images.fail(image, "no such file", "unreadable")

    note(manifest, record("a"))

    assert [image.key for image in manifest.images.in_state("new")] == ["a"]


def test_answers_of_sources_that_are_not_named_now_stay(manifest: Manifest) -> None:
    named = (("x", "one"), ("y", "two"))
    found = [replace(record(name), source=source) for name, source in named]
    manifest.run.begin(replace(PLAN, sources=["one", "two"]))
    note(manifest, *found)
    chunk = sent(manifest)
    manifest.chunks.take(chunk, [result(0), result(1)], "x")

    kept = []
    for plan in (
        replace(PLAN, sources=["two"]),
        replace(PLAN, sources=["one", "two"]),
        replace(PLAN, sources=["one", "two"], limit=1),
    ):
        manifest.run.begin(plan)
        note(manifest, found[1])
        kept.append([image.key for image in manifest.images.in_state("done")])

    assert kept == [["x", "y"], ["y"], ["x", "y"]]


def test_what_failed_can_be_made_new(manifest: Manifest) -> None:
    for image, code in zip(manifest.images.in_state("new"), ("x", "y", "y"), strict=True):
        manifest.images.fail(image, "bad", code)

    assert manifest.images.retry(["y"]) == 2
    assert manifest.images.counts() == {"failed": 1, "new": 2}
    assert manifest.images.retry() == 1


def test_a_chunk_that_was_refused_is_dissolved(manifest: Manifest) -> None:
    manifest.chunks.dissolve(sent(manifest), 1, "'b' is not an image reference")

    assert manifest.chunks.unfinished() == []
    assert [image.key for image in manifest.images.in_state("new")] == ["a", "c"]
    assert [image.error for image in manifest.images.in_state("failed")] == [
        "'b' is not an image reference"
    ]


class TestIdentity:
    def test_another_question_needs_another_manifest(self, manifest: Manifest) -> None:
        manifest.chunks.submitted(sent(manifest), "job_1")
        other = Plan(sources=["photos"], ask=Ask({"kind": "caption"}))

        again = reopened(manifest)

        again.run.begin(PLAN)
        assert again.run.plan() == PLAN
        with pytest.raises(
            IdefiqError, match="another question; choose another --out, or use --fresh"
        ):
            again.run.begin(other)

    def test_what_is_on_its_way_holds_its_question_even_if_no_job_is_known(
        self, manifest: Manifest
    ) -> None:
        sent(manifest)

        with pytest.raises(IdefiqError, match="another question"):
            manifest.run.begin(Plan(sources=["photos"], ask=Ask({"kind": "caption"})))

    def test_before_anything_was_asked_it_may_still_change(self, manifest: Manifest) -> None:
        other = Plan(sources=["photos"], ask=Ask({"kind": "caption"}))

        manifest.run.begin(other)

        assert manifest.run.plan() == other

    def test_two_runs_do_not_share_one(self, manifest: Manifest, path: Path) -> None:
        with pytest.raises(IdefiqError, match="another run uses it"):
            Manifest(path)
        assert manifest.images.counts()

    def test_a_file_that_is_none_is_refused(self, path: Path) -> None:
        path.write_text("not a database, but long enough to be looked at" * 30)

        with pytest.raises(IdefiqError, match="not a manifest of idefiq"):
            Manifest(path)

    def test_a_foreign_database_is_left_alone(self, path: Path) -> None:
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE theirs (a)")
        database.close()
        before = path.read_bytes()

        with pytest.raises(IdefiqError, match="a manifest of another version"):
            Manifest(path)
        assert path.read_bytes() == before

    def test_a_folder_that_cannot_be_written_is_reported(self, tmp_path: Path) -> None:
        with pytest.raises(IdefiqError, match="unable to open"):
            Manifest(tmp_path / "none" / "manifest")


def test_an_error_about_a_missing_column_lists_the_columns(manifest: Manifest) -> None:
    with pytest.raises(IdefiqError, match=r"unknown column \{what\}; columns: file, folder, name"):
        PLAN.ask.own("photos/a.png", {"file": "a.png"})
    assert PLAN.ask.defaults() == {"kind": "vqa"}
