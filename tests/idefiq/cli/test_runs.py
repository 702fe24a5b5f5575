"""Asking about many images: what comes out, what goes on, what is refused."""

import csv
import json
import sys
from pathlib import Path

import httpx2
import pytest

from db import owners
from db.owners import LOCAL_OWNER
from db.sql.database import Database
from db.vocabulary.errors import FetchFailed
from idefiq import ApiError, Client
from idefiq.bulk import run
from idefiq.bulk.manifest_chunks import ChunkTable
from tests.idefiq.cli.conftest import Command
from tests.played import Played


def rows(path: Path) -> dict[str, str | None]:
    lines = map(json.loads, path.read_text().splitlines())
    return {line["file"]: line["answer"] for line in lines}


def test_every_image_below_a_folder_is_captioned(
    command: Command, played: Played, folder: Path
) -> None:
    with played.running("seen"):
        result = command("caption", "in")

    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "in/a.png\tseen",
        "in/b.png\tseen",
        "in/deep/c.png\tseen",
    ]
    assert not list(folder.parent.glob("*.idefiq"))


def test_a_bad_file_fails_alone_and_is_listed_at_the_end(
    command: Command, played: Played, folder: Path
) -> None:
    (folder / "empty.png").write_bytes(b"")

    with played.running("seen"):
        result = command("ask", "What is {name}?", "in", "--out", "out.csv")

    assert result.exit_code == 1
    assert "failed: in/empty.png: the file is empty" in result.stderr
    assert "1 of 4 images failed; retry with `idefiq retry out.csv.idefiq`" in result.stderr
    with Path("out.csv").open(newline="") as file:
        found = {row["file"]: (row["answer"], row["error"]) for row in csv.DictReader(file)}
    assert found["in/empty.png"] == ("", "the file is empty")
    assert found["in/a.png"] == ("seen", "")


def test_each_kind_asks_its_own(
    command: Command, client: Client, played: Played, folder: Path, http_sqlite: httpx2.Client
) -> None:
    with played.running("seen"):
        command("caption", "in/a.png", "--prompt", "Say it.", "--out", "a.jsonl")
        command("ask", "Is {name} here?", "in/a.png", "--out", "b.jsonl")
        command("chat", "And?", "in/a.png", "--system", "Be brief.", "--out", "c.jsonl")

    asked = []
    for job in sorted(client.jobs(), key=lambda job: job.id):
        item = http_sqlite.get(f"/v1/jobs/{job.id}/items/0").json()
        asked.append({k: v for k, v in item["request"].items() if k not in ("images", "options")})
    assert asked == [{}, {"question": "Is a here?"}, {}]
    assert [list(rows(Path(f"{name}.jsonl")).values()) for name in "abc"] == [["seen"]] * 3


def test_an_unsupported_kind_and_an_unknown_model_are_reported_at_once(
    command: Command, folder: Path
) -> None:
    lacking = command("classify", "in", "--label", "a", "--label", "b", "--out", "a.jsonl")
    unknown = command("caption", "in", "--model", "none", "--out", "a.jsonl")

    assert "model 'echo' does not support classify; it supports caption, vqa, chat" in str(
        lacking.exception
    )
    assert "unknown model: 'none'; known models: echo" in str(unknown.exception)
    assert not Path("a.jsonl.idefiq").exists()


def test_options_are_sent_with_the_request_and_a_wrong_one_is_reported(
    command: Command, played: Played, folder: Path, http_sqlite: httpx2.Client
) -> None:
    wrong = command("caption", "in", "--out", "a.jsonl", "--option", "temperature=0.5")
    form = command("caption", "in", "--out", "a.jsonl", "--option", "max_new_tokens")
    with played.running():
        right = command("caption", "in", "--out", "a.jsonl", "--option", "max_new_tokens=7")

    assert "set do_sample" in str(wrong.exception)
    assert "expected name=value" in str(form.exception)
    assert right.exit_code == 0, right.output


class TestGoingOn:
    def test_the_same_command_asks_about_nothing_twice(
        self, command: Command, client: Client, played: Played, folder: Path
    ) -> None:
        with played.running("first"):
            command("caption", "in", "--out", "out.jsonl")
        (folder / "d.png").write_bytes((folder / "a.png").read_bytes() + b" ")
        with played.running("second"):
            again = command("caption", "in", "--out", "out.jsonl", "--json")

        assert json.loads(again.stdout)["done"] == 4
        assert rows(Path("out.jsonl")) == {
            "in/a.png": "first",
            "in/b.png": "first",
            "in/d.png": "second",
            "in/deep/c.png": "first",
        }
        assert sorted(job.counts.total for job in client.jobs()) == [1, 3]

    def test_a_run_that_is_stopped_writes_what_it_has_and_goes_on(
        self,
        command: Command,
        client: Client,
        played: Played,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(run, "CHUNK_IMAGES", 1)
        stopped: list[int] = []
        original = run.Run.take

        def stop(*arguments: object, **options: bool) -> None:
            original(*arguments, **options)  # type: ignore[arg-type]
            played.step("seen")
            stopped.append(1)
            if len(stopped) == 2:
                raise KeyboardInterrupt

        monkeypatch.setattr(run.Run, "take", stop)
        first = command("caption", "in", "--out", "out.jsonl")
        monkeypatch.setattr(run.Run, "take", original)
        so_far = rows(Path("out.jsonl"))
        with played.running("seen"):
            second = command("caption", "in", "--out", "out.jsonl")

        assert first.exit_code != 0
        assert "run the same command again to resume" in first.stderr
        assert len(so_far) < 3
        assert second.exit_code == 0, second.output
        assert rows(Path("out.jsonl")) == dict.fromkeys(
            ("in/a.png", "in/b.png", "in/deep/c.png"), "seen"
        )
        assert [job.counts.total for job in client.jobs()] == [1, 1, 1]

    def test_an_output_of_unknown_origin_is_not_overwritten(
        self, command: Command, played: Played, folder: Path
    ) -> None:
        Path("out.jsonl").write_text("precious")

        kept = command("caption", "in", "--out", "out.jsonl")
        assert "replace it with --existing overwrite" in str(kept.exception)
        assert Path("out.jsonl").read_text() == "precious"

        with played.running():
            command("caption", "in", "--out", "out.jsonl", "--existing", "overwrite")
        assert len(rows(Path("out.jsonl"))) == 3

    def test_another_question_needs_a_restart(
        self, command: Command, played: Played, folder: Path
    ) -> None:
        with played.running("first"):
            command("caption", "in", "--out", "out.jsonl")
        with played.running("second"):
            other = command("ask", "What?", "in", "--out", "out.jsonl")
            restarted = command(
                "ask", "What?", "in", "--out", "out.jsonl", "--fresh", "--existing", "overwrite"
            )

        assert "'out.jsonl' belongs to a run with another question" in str(other.exception)
        assert restarted.exit_code == 0, restarted.output
        assert set(rows(Path("out.jsonl")).values()) == {"second"}

    def test_a_dry_run_of_a_fresh_run_deletes_nothing(
        self, command: Command, played: Played, folder: Path
    ) -> None:
        with played.running("first"):
            command("caption", "in", "--out", "out.jsonl")

        dry = command("caption", "in", "--out", "out.jsonl", "--fresh", "--dry-run", "--json")
        kept = command("caption", "in", "--out", "out.jsonl", "--dry-run", "--json")

        assert (json.loads(dry.stdout)["to_ask"], json.loads(kept.stdout)["done"]) == (3, 3)

    def test_a_submission_whose_response_was_lost_is_one_job_even_with_more_sources(
        self,
        command: Command,
        client: Client,
        played: Played,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        original = ChunkTable.submitted
        monkeypatch.setattr(ChunkTable, "submitted", lambda *_: sys.exit(9))
        command("caption", "in/a.png", "in/b.png", "--out", "out.jsonl")
        monkeypatch.setattr(ChunkTable, "submitted", original)

        with played.running("seen"):
            again = command(
                "caption", "in/a.png", "in/b.png", "in/deep/c.png", "--out", "out.jsonl"
            )

        assert again.exit_code == 0, again.output
        assert sorted(job.counts.total for job in client.jobs()) == [1, 2]
        assert len(rows(Path("out.jsonl"))) == 3

    def test_an_outage_fails_no_image(
        self,
        command: Command,
        client: Client,
        played: Played,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def away(*_: object) -> None:
            raise ApiError(503, "storage_unavailable", "the blob store is unavailable")

        original = Client.upload
        monkeypatch.setattr(Client, "upload", away)
        stopped = command("caption", "in", "--out", "out.jsonl")
        monkeypatch.setattr(Client, "upload", original)
        with played.running("seen"):
            again = command("caption", "in", "--out", "out.jsonl")

        assert "the blob store is unavailable" in str(stopped.exception)
        assert again.exit_code == 0, again.output
        assert list(rows(Path("out.jsonl")).values()) == ["seen"] * 3

    def test_a_table_that_was_edited_is_asked_about_where_it_has_changed(
        self, command: Command, client: Client, played: Played, folder: Path
    ) -> None:
        table = Path("in.csv")
        table.write_text("image\nin/a.png\nin/b.png\n")
        with played.running("first"):
            command("caption", "in.csv", "--out", "out.jsonl")
        table.write_text("image\nin/deep/c.png\nin/b.png\n")
        with played.running("second"):
            command("caption", "in.csv", "--out", "out.jsonl")

        found = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
        assert [(row["image"], row["answer"]) for row in found] == [
            ("in/deep/c.png", "second"),
            ("in/b.png", "first"),
        ]
        assert sum(job.counts.total for job in client.jobs()) == 3

    def test_what_failed_is_asked_again(
        self, command: Command, played: Played, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = run.Run.take

        def fail_one(*arguments: object, **options: bool) -> None:
            taken = played.claim()
            played.fail(taken[:1], FetchFailed("the server is away"))
            played.complete(taken[1:])
            original(*arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(run.Run, "take", fail_one)
        first = command("caption", "in", "--out", "out.jsonl")
        monkeypatch.setattr(run.Run, "take", original)
        other = command("retry", "out.jsonl", "--code", "image_unreadable")
        with played.running("now"):
            second = command("retry", "out.jsonl", "--code", "fetch_failed")

        assert "failed: in/a.png: the server is away" in first.stderr
        assert "retrying 0 images" in other.stderr
        assert second.exit_code == 0, second.output
        assert rows(Path("out.jsonl"))["in/a.png"] == "now"
        assert "has no manifest" in str(command("retry", "nothing.jsonl").exception)


class TestTexts:
    def test_existing_texts_are_skipped_and_the_tree_is_kept(
        self, command: Command, played: Played, folder: Path
    ) -> None:
        (folder / "a.txt").write_text("by hand")

        with played.running("seen"):
            result = command("caption", "in", "--sidecar", "txt", "--prefix", "It is ")
            elsewhere = command("caption", "in", "--out", "texts/", "--sidecar", ".caption")

        assert (result.exit_code, elsewhere.exit_code) == (0, 0), result.output
        assert "1 images were skipped because they have a text" in result.stderr
        assert (folder / "a.txt").read_text() == "by hand"
        assert (folder / "deep/c.txt").read_text() == "It is seen\n"
        assert Path("texts/deep/c.caption").read_text() == "seen\n"

    def test_appending_again_appends_once(
        self, command: Command, played: Played, folder: Path
    ) -> None:
        (folder / "a.txt").write_text("by hand")

        with played.running("seen"):
            for _ in range(2):
                command("caption", "in", "--sidecar", ".txt", "--existing", "append")

        assert (folder / "a.txt").read_text() == "by hand\nseen\n"

    def test_files_named_one_by_one_have_a_text_each(
        self, command: Command, played: Played, folder: Path
    ) -> None:
        (folder / "a.webp").write_bytes((folder / "a.png").read_bytes())

        with played.running("seen"):
            result = command("caption", "in/a.png", "in/b.png", "in/a.webp", "--out", "texts/")

        assert result.exit_code == 0, result.output
        assert sorted(path.name for path in Path("texts").iterdir()) == [
            ".idefiq",
            "a.txt",
            "a.webp.txt",
            "b.txt",
        ]

    def test_a_run_killed_while_scanning_still_skips_existing_texts(
        self,
        command: Command,
        played: Played,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        (folder / "a.txt").write_text("by hand")
        original = run.Run.work
        monkeypatch.setattr(run.Run, "work", lambda _: sys.exit(9))
        command("caption", "in", "--sidecar", ".txt")
        monkeypatch.setattr(run.Run, "work", original)

        with played.running("seen"):
            command("caption", "in", "--sidecar", ".txt")

        assert (folder / "a.txt").read_text() == "by hand"
        assert (folder / "b.txt").read_text() == "seen\n"


class TestDryRun:
    def test_a_dry_run_prints_counts_and_submits_nothing(
        self, command: Command, client: Client, played: Played, folder: Path
    ) -> None:
        unknown = command("caption", "in", "--dry-run", "--out", "out.jsonl")
        with played.running():
            command("caption", "in/a.png", "in/b.png", "--out", "out.jsonl")
        known = command("caption", "in", "--dry-run", "--out", "out.jsonl")
        told = json.loads(
            command("caption", "in", "--dry-run", "--out", "out.jsonl", "--json").stdout
        )

        assert "images: 3\nto ask: 3\nin progress: 0\n" in unknown.stdout
        assert "--limit 50" in unknown.stdout
        assert "in recent jobs" in known.stdout
        assert (told["images"], told["to_ask"], told["done"]) == (3, 1, 2)
        assert told["seconds"] == pytest.approx(1 / told["items_per_second"])
        assert len(list(client.jobs())) == 1

    def test_a_limit_takes_the_first(self, command: Command, played: Played, folder: Path) -> None:
        with played.running():
            command("caption", "in", "--limit", "2", "--out", "out.jsonl")

        assert list(rows(Path("out.jsonl"))) == ["in/a.png", "in/b.png"]


class TestTables:
    def test_each_row_may_have_its_own_question(
        self, command: Command, played: Played, folder: Path
    ) -> None:
        Path("in.csv").write_text(
            "image,product,shop\nin/a.png,shoe,1\nin/none.png,hat,2\nhttps://exa mple/x,cap,3\n"
        )

        with played.running("yes"):
            result = command("ask", "Is this a {product}?", "in.csv", "--out", "out.jsonl")
            wrong = command("ask", "Is this a {colour}?", "in.csv", "--out", "wrong.jsonl")

        found = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
        assert [row["shop"] for row in found] == ["1", "2", "3"]
        assert [row["answer"] for row in found] == ["yes", None, None]
        assert found[1]["error"] == "No such file or directory"
        assert "invalid image reference" in found[2]["error"]
        assert "2 of 3 images failed" in result.stderr
        assert "unknown column {colour}" in wrong.stderr

    def test_a_row_with_an_empty_question_fails_alone(
        self, command: Command, played: Played, folder: Path
    ) -> None:
        Path("in.csv").write_text("image,said\nin/a.png,Is it red?\nin/b.png,\n")

        with played.running("yes"):
            result = command("ask", "{said}", "in.csv", "--out", "out.jsonl")

        found = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
        assert result.exit_code == 1
        assert [row["answer"] for row in found] == ["yes", None]
        assert "question" in found[1]["error"]

    def test_shards_are_not_written_over_those_that_were_there(
        self, command: Command, played: Played, folder: Path
    ) -> None:
        Path("d-000000.tar").write_bytes(b"precious")

        result = command("caption", "in", "--out", "d-%06d.tar")

        assert "exists, but not from a run" in str(result.exception)
        assert Path("d-000000.tar").read_bytes() == b"precious"

    def test_an_empty_folder_leaves_the_output_as_it_was(
        self, command: Command, folder: Path
    ) -> None:
        Path("empty").mkdir()
        Path("out.jsonl").write_text("precious")

        result = command("caption", "empty", "--out", "out.jsonl", "--existing", "overwrite")

        assert "no images in empty" in str(result.exception)
        assert Path("out.jsonl").read_text() == "precious"

    def test_a_bucket_is_listed_by_the_service(
        self, command: Command, record: Database, folder: Path
    ) -> None:
        refused = command("caption", "s3://photos/2026/", "--out", "out.jsonl")
        with record.transaction() as transaction:
            owner = owners.get_or_create(transaction, LOCAL_OWNER)
            owners.grant(transaction, owner, bucket="photos", prefix="")
        dry = command("caption", "s3://photos/2026/", "--out", "out.jsonl", "--dry-run")

        limited = command("caption", "s3://photos/2026/", "--limit", "5", "--out", "out.jsonl")

        assert "--limit is not supported for buckets" in str(limited.exception)
        assert "not granted" in str(refused.exception)
        assert "listed by the service: s3://photos/2026/" in dry.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["caption", ""], "a source is empty"),
        (["caption", ".", "--out", ""], "--out is empty"),
        (["classify", ".", "--label", "a,b"], "repeat --label"),
        (["ask", " ", "."], "the question is empty"),
        (["caption", "nowhere.png"], "no such file or folder: 'nowhere.png'"),
        (["caption", "."], "no images in ."),
        (["caption", ".", "--out", "x.xml"], "write to a .jsonl"),
        (["caption", ".", "--schema", "nope.json"], "--schema 'nope.json': No such file"),
        (["caption", ".", "--schema", "bad.json"], "--schema 'bad.json' is not JSON"),
        (["caption", ".", "--schema", "list.json"], "a JSON Schema is an object"),
        (["ask", "x", ".", "--choice", "a", "--regex", "b"], "--choice and --regex exclude"),
        (["classify", ".", "--label", "a", "--label", "b", "--regex", "x"], "has its labels"),
        (["retry", "nope"], "is not a job id, and has no manifest"),
        (["retry", "job_nope"], "no such job"),
    ],
)
def test_a_mistake_is_reported_in_one_line(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    Path("bad.json").write_text("{")
    Path("list.json").write_text("[]")

    result = command(*words)

    assert result.exit_code != 0
    assert says in str(result.exception)
