"""The client and the command line, against a real API whose engine is played by the test."""

import csv
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import httpx2
import pytest
from typer.testing import CliRunner

from db import leases, owners, sessions
from db.database import Database
from db.requests import image_references
from db.states import Stage
from idefiq import ApiError, Client, IdefiqError, TooLong, batch
from idefiq.cli import app
from tests import pictures, servers
from tests.db import builders
from tests.served import Serve
from tests.workers import parts


@pytest.fixture
def client(http_sqlite: httpx2.Client) -> Iterator[Client]:
    with Client(str(http_sqlite.base_url)) as made:
        yield made


@pytest.fixture
def record(http_sqlite: httpx2.Client, sqlite_url: str) -> Iterator[Database]:
    database = Database(sqlite_url)
    yield database
    database.dispose()


def play_engine(record: Database, folder: Path, seconds: float = 20) -> threading.Thread:
    """Be upkeep, intake and an engine until a job has been answered."""
    upkeep = parts.upkeep(record, folder)

    def run() -> None:
        session = builders.session(record, "played")
        done: list[int] = []

        def look() -> bool:
            upkeep.look()
            _advance(record)
            taken = builders.claim(record, session)
            done.extend(builders.complete(record, taken, "seen"))
            return bool(done) and not taken

        servers.wait_until(look, seconds=seconds, what="work for the played engine")

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def _advance(record: Database) -> None:
    """Do what intake would do with images that are good."""
    with record.transaction() as transaction:
        session = sessions.start(
            transaction, worker="intake", stage=Stage.INTAKE, model=None, lease_seconds=60
        )
        taken = leases.claim(
            transaction, session=session, stage=Stage.INTAKE, model=None, limit=100
        )
        leases.advance(transaction, [(lease, image_references(lease.request)) for lease in taken])


def _images(folder: Path, count: int) -> list[Path]:
    paths = []
    for number in range(count):
        path = folder / f"{number}.png"
        path.write_bytes(pictures.plain(size=(4, 4 + number)))
        paths.append(path)
    return paths


def test_only_bytes_that_the_service_lacks_are_sent(
    client: Client, record: Database, tmp_path: Path
) -> None:
    first, second = _images(tmp_path, 2)

    before = client.upload([first])
    again = client.upload([first, second])

    assert again[0] == before[0]
    assert len(set(again)) == 2


def test_a_refusal_names_the_line_and_the_field(client: Client) -> None:
    good = {"images": ["blob:" + "0" * 64]}

    with pytest.raises(ApiError) as caught:
        client.submit([good, {"images": ["nonsense"]}])

    assert (caught.value.status, caught.value.code) == (422, "invalid_request")
    assert caught.value.errors[0]["field"].startswith("items.1.images")


def test_a_submission_that_is_sent_again_is_one_job(client: Client) -> None:
    items = [{"images": ["blob:" + "0" * 64]}]

    ids = {client.submit(items, idempotency_key="once").id for _ in range(2)}

    assert len(ids) == 1


def test_a_wait_without_patience_leaves_the_job_running(client: Client) -> None:
    job = client.submit([{"images": ["blob:" + "0" * 64]}])

    with pytest.raises(TooLong, match="after 0 s"):
        client.wait(job, seconds=0)
    assert client.job(job.id).is_final is False


def test_a_service_that_is_not_there_is_one_sentence() -> None:
    with Client(f"http://127.0.0.1:{servers.free_port()}") as client:
        assert client.is_ready() is False
        with pytest.raises(IdefiqError, match="cannot be reached"):
            client.submit(iter([]))


def test_a_busy_service_is_asked_again_after_the_time_it_names() -> None:
    class Busy(BaseHTTPRequestHandler):
        answers: ClassVar[list[int]] = [503, 429, 200]

        def do_GET(self) -> None:
            status = self.answers.pop(0)
            body = json.dumps({"data": []}).encode()
            self.send_response(status)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Busy)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with Client(f"http://127.0.0.1:{server.server_port}") as client:
        assert client.models() == []
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_key_is_sent(serve: Serve, sqlite_url: str) -> None:
    http = serve(sqlite_url, keys="always")
    database = Database(sqlite_url)
    with database.transaction() as transaction:
        key = owners.create_key(transaction, owners.get_or_create(transaction, "ada"))
    database.dispose()

    with Client(str(http.base_url), key) as client, Client(str(http.base_url)) as keyless:
        assert list(client.jobs()) == []
        with pytest.raises(ApiError, match="API key is required"):
            list(keyless.jobs())


class TestCommandLine:
    @pytest.fixture
    def run(self, http_sqlite: httpx2.Client) -> object:
        runner = CliRunner()
        env = {"IDEFIQ_URL": str(http_sqlite.base_url)}
        return lambda *words: runner.invoke(app, [str(word) for word in words], env=env)

    def test_every_image_below_a_folder_is_captioned(
        self, run: object, record: Database, tmp_path: Path
    ) -> None:
        (tmp_path / "in" / "deep").mkdir(parents=True)
        paths = [*_images(tmp_path / "in", 2), *_images(tmp_path / "in" / "deep", 1)]
        (tmp_path / "in" / "notes.txt").write_text("not an image")
        engine = play_engine(record, tmp_path)

        result = run("caption", tmp_path / "in")  # type: ignore[operator]
        engine.join()

        assert result.exit_code == 0, result.output
        assert sorted(result.stdout.splitlines()) == sorted(f"{path}\tseen" for path in paths)

    def test_a_bad_file_fails_alone_and_the_status_says_so(
        self, run: object, record: Database, tmp_path: Path
    ) -> None:
        good, _ = _images(tmp_path, 2)
        empty = tmp_path / "empty.png"
        empty.write_bytes(b"")
        out = tmp_path / "out.csv"
        engine = play_engine(record, tmp_path)

        result = run("ask", "What?", good, empty, "--out", out)  # type: ignore[operator]
        engine.join()

        assert result.exit_code == 1
        assert "empty.png" in result.stderr
        with out.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["answer"] for row in rows] == ["seen", ""]
        assert "is empty" in rows[1]["error"]

    def test_answers_are_written_as_json_lines(
        self, run: object, record: Database, tmp_path: Path
    ) -> None:
        [path] = _images(tmp_path, 1)
        out = tmp_path / "out.jsonl"
        engine = play_engine(record, tmp_path)

        run("caption", path, "--out", out, "--prompt", "Say it.")  # type: ignore[operator]
        engine.join()

        assert json.loads(out.read_text()) == {"file": str(path), "answer": "seen", "error": None}

    def test_jobs_and_their_results_can_be_looked_at_later(
        self, run: object, record: Database, client: Client, tmp_path: Path
    ) -> None:
        image = client.upload(_images(tmp_path, 1))[0]
        engine = play_engine(record, tmp_path)
        job = client.wait(client.submit([{"images": [image], "custom_id": "x"}]), seconds=20)
        engine.join()

        listed = run("jobs")  # type: ignore[operator]
        results = run("results", job.id)  # type: ignore[operator]
        models = run("models")  # type: ignore[operator]
        cancelled = run("cancel", job.id)  # type: ignore[operator]

        assert job.id in listed.stdout
        assert json.loads(results.stdout)["answer"] == "seen"
        assert "echo" in models.stdout
        assert "succeeded" in cancelled.stdout

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["caption", "nowhere.png"], "there is no 'nowhere.png'"),
            (["caption", "."], "no images"),
            (["caption", "a.png", "--out", "x.xml"], "write to a .jsonl, .csv or .txt file"),
            (["results", "nope"], "there is no job 'nope'"),
        ],
    )
    def test_a_mistake_is_told_in_a_sentence(
        self,
        run: object,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        words: list[str],
        says: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)

        result = run(*words)  # type: ignore[operator]

        assert result.exit_code != 0
        assert says in str(result.exception)


def test_folders_are_searched_for_images_only_and_in_order(tmp_path: Path) -> None:
    names = ["b.JPG", "a.png", "c.txt", "d.webp"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")

    found = batch.find_images([tmp_path, tmp_path / "c.txt"])

    assert [path.name for path in found] == ["a.png", "b.JPG", "d.webp", "c.txt"]
