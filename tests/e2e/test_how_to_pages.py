"""The how-to pages as they stand: every command and every script in them is run."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from idefiq import Client
from tests import servers
from tests.e2e.conftest import Env, Start
from tests.servers import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
TUTORIALS = ROOT / "docs"
#: What a reader has done with the clone, and a test has no need for.
SET_UP = (". .venv/bin/activate", "pip install openai")
URL = "http://127.0.0.1:8000"


class Reader:
    """Carries out a page, block by block, in a folder of its own."""

    def __init__(self, name: str, folder: Path, url: str) -> None:
        text = (TUTORIALS / name).read_text().replace(URL, url)
        self._blocks = re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        self._folder = folder
        self._env = {
            "PATH": f"{Path(sys.executable).parent}:{os.defpath}",
            "PYTHONPATH": str(ROOT),
            "IDEFIQ_URL": url,
            "XDG_STATE_HOME": os.environ["XDG_STATE_HOME"],  # noqa: TID251 - for the process
        }

    def read(self, interrupted: Callable[[list[str]], None] | None = None) -> str:
        """Do everything; returns what was printed."""
        printed, commands = "", ""
        for kind, name, text in self._blocks:
            if name == "service":
                continue  # runs already
            if kind == "python":
                (self._folder / name).write_text(text)
            elif name == "interrupted":
                assert interrupted
                interrupted(text.split())
            else:
                said = [line for line in text.splitlines() if line not in SET_UP]
                # What is exported stays, as in a terminal.
                exported = [line for line in commands.splitlines() if line.startswith("export")]
                printed += self.run("\n".join([*exported, *said]))
                commands += text
        return printed

    def run(self, script: str) -> str:
        """Run commands; returns what they printed."""
        done = subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=self._folder,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, command: list[str]) -> "subprocess.Popen[bytes]":
        """Run one command beside the test."""
        return subprocess.Popen(
            command,
            cwd=self._folder,
            env=self._env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a reader works."""
    made = tmp_path / "reader"
    made.mkdir()
    return made


def test_a_site_without_texts_gets_them_reviewed_and_passes_its_check(
    embedded: Env, start: Start, folder: Path
) -> None:

    with start("demo", embedded) as (stack, client):
        printed = Reader("alt-text-for-a-site.md", folder, stack.url).read()
        reviews = list(client.reviews())

    assert "5 images on 2 pages: 1 are fine, 3 need a text, 1 are decorative" in printed
    assert "3 decided, 0 left" in printed
    assert "5 images on 2 pages: 5 are fine" in printed
    assert sorted(one.state for one in reviews) == ["accepted", "decorative", "edited"]
    assert {one.reviewer for one in reviews} == {"Ada"}
    page = (folder / "site" / "index.html").read_text()
    assert page.count("alt=") == 4
    assert 'alt="Meet the shapes"' in page
    assert "data-alt-draft" not in page


def _wait_for(client: Client, answers: int) -> None:
    servers.wait_until(
        lambda: sum(job.counts.finished for job in client.jobs()) >= answers,
        what=f"{answers} answers",
        seconds=PATIENCE_SECONDS,
    )


def test_a_folder_becomes_a_parquet_file_although_it_is_interrupted_three_times(
    embedded: Env, start: Start, folder: Path
) -> None:
    stopped: list[int] = []

    with start("demo", embedded) as (stack, client):
        reader = Reader("caption-a-folder.md", folder, stack.url)

        def interrupted(command: list[str]) -> None:
            for number, how in enumerate((signal.SIGINT, signal.SIGKILL, signal.SIGINT), 1):
                process = reader.start(command)
                _wait_for(client, 100 * number)
                [job] = client.jobs()
                client.pause(job)  # so that it cannot end before it is stopped
                process.send_signal(how)
                stopped.append(process.wait(timeout=PATIENCE_SECONDS))
                client.resume(job)
            reader.run(" ".join(command))

        printed = reader.read(interrupted)

    assert len(stopped) == 3
    assert 0 not in stopped
    assert "500 rows, 0 images twice" in printed
    assert "0 without an answer" in printed
    assert "500 questions were asked of the service" in printed
    texts = sorted((folder / "texts").glob("*.txt"))
    assert len(texts) == 511
    assert texts[0].read_text().endswith(" on a plain background\n")
    assert len((folder / "backgrounds.csv").read_text().splitlines()) == 21


def test_a_batch_script_runs_with_another_base_url_alone(
    embedded: Env, start: Start, folder: Path
) -> None:
    aliases = json.dumps({"gpt-4o-mini": "demo"})

    with start("demo", embedded, model_aliases=aliases) as (stack, _):
        (folder / "data").symlink_to(stack.data)
        printed = Reader("openai-batches.md", folder, stack.url).read()

    rows = dict(line.split("\t") for line in (folder / "captions.tsv").read_text().splitlines())
    assert sorted(rows) == [f"{number:04}.png" for number in range(40)]
    assert all(text.startswith(("a ", "an ", "two ", "three ")) for text in rows.values())
    assert "40 of 40 are answered" in printed


def test_product_photos_become_a_table_whose_columns_have_the_types_of_a_schema(
    embedded: Env, start: Start, folder: Path
) -> None:

    with start("demo", embedded) as (stack, _):
        printed = Reader("product-photos.md", folder, stack.url).read()

    assert (
        "file: string, shape: string, colors: string, count: int64, on_plain_background: bool,"
        " note: string, answer: string, error: " in printed
    )
    assert "40 rows, " in printed
    with (folder / "shapes.csv").open(newline="") as file:
        assert {row["answer"] for row in csv.DictReader(file)} <= {"circle", "square", "other"}
    with (folder / "codes.csv").open(newline="") as file:
        codes = [row["answer"] for row in csv.DictReader(file)]
    assert len(codes) == 5
    assert all(re.fullmatch("[A-Z]{2}-[0-9]{2}", code) for code in codes)
