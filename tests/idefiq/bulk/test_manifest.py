"""The memory of a run: every step is written down, and may be taken again."""

from pathlib import Path
from typing import Any

import pytest

from idefiq import Result
from idefiq.bulk.ask import Ask, Plan
from idefiq.bulk.manifest import Manifest
from idefiq.bulk.sources import Record
from idefiq.types import IdefiqError

PLAN = Plan(sources=["photos"], ask=Ask({"kind": "vqa"}, "question", "Is it a {what}?"))
URL = "http://127.0.0.1:8000"


def record(name: str, stamp: str = "1", **columns: Any) -> Record:
    return Record(name, {"file": name}, {"file": name, **columns}, stamp)


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
    made.begin(PLAN, URL)
    made.add([(record(name, what=name), None) for name in "abc"])
    return made


def reopened(manifest: Manifest) -> Manifest:
    manifest.close()
    assert manifest.path
    return Manifest(manifest.path)


def sent(manifest: Manifest) -> Any:
    return manifest.assign([(image, f"blob:{image.key}") for image in manifest.images("new")])


def test_what_was_assigned_is_asked_in_the_same_words_after_a_crash(manifest: Manifest) -> None:
    chunk = sent(manifest)
    before = manifest.items(chunk, PLAN.ask)

    again = reopened(manifest)
    [opened] = again.open_chunks()

    assert (opened, again.items(opened, PLAN.ask)) == (chunk, before)
    assert before[0] == {"question": "Is it a a?", "images": ["blob:a"], "custom_id": "a"}
    assert again.counts() == {"sent": 3}


def test_answers_and_errors_are_taken_page_by_page_and_once(manifest: Manifest) -> None:
    chunk = sent(manifest)
    manifest.submitted(chunk, "job_1")
    manifest.take(chunk, [result(1), result(0, None)], "after 2")
    manifest.take(chunk, [result(1, "no")], "after 2")

    again = reopened(manifest)

    [opened] = again.open_chunks()
    assert (opened.job_id, opened.cursor) == ("job_1", "after 2")
    assert again.counts() == {"done": 1, "failed": 1, "sent": 1}
    assert [image.text for image in again.images("done")] == ["yes"]
    again.take(opened, [result(2)], "after 3")
    again.end(opened)
    assert (again.open_chunks(), again.counts()) == ([], {"done": 2, "failed": 1})


def test_a_label_that_is_none_of_those_asked_for_is_a_failure(manifest: Manifest) -> None:
    chunk = sent(manifest)
    manifest.take(chunk, [result(0, "A cat.", label="cat"), result(1, "?", label=None)], "x")

    assert [image.text for image in manifest.images("done")] == ["cat"]
    [failed] = manifest.images("failed")
    assert failed.error == "the answer names none of the labels: '?'"


def test_known_images_are_not_asked_about_again_unless_they_have_changed(
    manifest: Manifest,
) -> None:
    chunk = sent(manifest)
    manifest.take(chunk, [result(n) for n in range(3)], "x")
    manifest.end(chunk)

    manifest.add([(record("a"), None), (record("b", "2"), None), (record("d"), None)])

    assert [image.key for image in manifest.images("new")] == ["b", "d"]


def test_what_failed_can_be_made_new(manifest: Manifest) -> None:
    for image, code in zip(manifest.images("new"), ("x", "y", "y"), strict=True):
        manifest.fail(image, "bad", code)

    assert manifest.retry(["y"]) == 2
    assert manifest.counts() == {"failed": 1, "new": 2}
    assert manifest.retry() == 1


def test_a_chunk_that_was_refused_is_dissolved(manifest: Manifest) -> None:
    manifest.dissolve(sent(manifest), 1, "'b' is no image reference")

    assert manifest.open_chunks() == []
    assert [image.key for image in manifest.images("new")] == ["a", "c"]
    assert [image.error for image in manifest.images("failed")] == ["'b' is no image reference"]


class TestIdentity:
    def test_another_question_needs_another_manifest(self, manifest: Manifest) -> None:
        manifest.submitted(sent(manifest), "job_1")
        other = Plan(sources=["photos"], ask=Ask({"kind": "caption"}))

        again = reopened(manifest)

        again.begin(PLAN, URL)
        assert again.plan() == PLAN
        with pytest.raises(IdefiqError, match=r"another ask .* --restart"):
            again.begin(other, URL)
        with pytest.raises(IdefiqError, match="another url"):
            again.begin(PLAN, "http://elsewhere")

    def test_before_anything_was_asked_it_may_still_change(self, manifest: Manifest) -> None:
        other = Plan(sources=["photos"], ask=Ask({"kind": "caption"}))

        manifest.begin(other, URL)

        assert manifest.plan() == other

    def test_two_runs_do_not_share_one(self, manifest: Manifest, path: Path) -> None:
        with pytest.raises(IdefiqError, match="another run uses"):
            Manifest(path)
        assert manifest.counts()

    def test_a_file_that_is_none_is_refused(self, path: Path) -> None:
        path.write_text("not a database, but long enough to be looked at" * 30)

        with pytest.raises(IdefiqError, match="no manifest of idefiq"):
            Manifest(path)


def test_a_text_that_names_a_missing_column_says_which_there_are(manifest: Manifest) -> None:
    with pytest.raises(IdefiqError, match=r"\{what\} is no column; there are file, folder, name"):
        PLAN.ask.own("photos/a.png", {"file": "a.png"})
    assert PLAN.ask.defaults() == {"kind": "vqa"}
