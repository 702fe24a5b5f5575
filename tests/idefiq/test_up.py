"""`idefiq up`: what it starts, restarts, refuses and leaves behind."""

import os
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from idefiq import Client
from idefiq.errors import IdefiqError
from idefiq.supervised import Service
from idefiq.up import Stack
from tests import servers
from tests.servers import PATIENCE_SECONDS


def test_it_runs_until_it_is_interrupted_and_leaves_no_process(tmp_path: Path) -> None:
    port, log = servers.free_port(), tmp_path / "log"
    command = [sys.executable, "-m", "idefiq", "up", "--data", str(tmp_path / "data")]
    env = {**os.environ, "IDEFIQ_MODEL": "echo"}  # noqa: TID251 - for the process
    with servers.running([*command, "--port", str(port)], log, env=env) as process:
        servers.wait_until(lambda: b"ready: " in log.read_bytes(), process=process)
        children = _below(process.pid)

        process.send_signal(signal.SIGINT)
        status = process.wait(PATIENCE_SECONDS)

    assert status == 0
    assert len(children) >= 5
    servers.wait_until(lambda: not any(map(servers.is_running, children)), what="the end of all")
    key = tmp_path / "data" / "api-key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.read_text().startswith("idq_")


def test_its_processes_end_when_it_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    port = servers.free_port()
    command = [sys.executable, "-m", "idefiq", "up", "--data", str(tmp_path / "data")]
    env = {**os.environ, "IDEFIQ_MODEL": "echo"}  # noqa: TID251 - for the process
    with servers.running([*command, "--port", str(port)], log, env=env) as process:
        servers.wait_until(lambda: b"ready: " in log.read_bytes(), process=process)
        children = _below(process.pid)
        process.kill()

    servers.wait_until(lambda: not any(map(servers.is_running, children)), what="the end of all")


def _below(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [found for child in map(int, children) for found in (child, *_below(child))]


def test_a_port_that_is_taken_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        stack = Stack(tmp_path / "data", port=taken.getsockname()[1])

        with pytest.raises(IdefiqError, match="choose one with --port"):
            stack.start()

    assert stack.services == []


def test_a_second_one_on_the_same_data_is_refused(tmp_path: Path) -> None:
    with (
        Stack(tmp_path, port=0, models=["echo"], log=tmp_path / "log").running(),
        pytest.raises(IdefiqError, match="choose another folder with --data"),
    ):
        Stack(tmp_path, port=0).start()


def test_a_model_that_is_not_there_ends_it_with_a_sentence(tmp_path: Path) -> None:
    log = tmp_path / "log"
    stack = Stack(tmp_path, port=0, models=[str(tmp_path / "nowhere")], log=log)

    with (
        pytest.raises(IdefiqError, match=r"engine .*nowhere cannot run with these settings"),
        stack.running(),
    ):
        pass

    assert "there is no checkpoint at" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_a_key_of_an_earlier_start_is_kept_and_all_files_are_their_users_alone(
    tmp_path: Path,
) -> None:
    keys, data = [], tmp_path / "data"
    for _ in range(2):
        with Stack(data, port=0, models=["echo"], log=tmp_path / "log").running() as stack:
            keys.append((data / "api-key").read_text())
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(f"{stack.url}/v1/jobs")
            with Client(stack.url) as client:
                assert client.jobs() is not None
            with urllib.request.urlopen(f"{stack.url}/healthz") as answer:
                assert answer.status == 200

    assert keys[0] == keys[1]
    made = [data, *data.rglob("*")]
    assert {
        path.name: oct(path.stat().st_mode) for path in made if path.stat().st_mode & 0o077
    } == {}
    assert {"idefiq.db", "api-key"} <= {path.name for path in made}


def test_a_process_that_keeps_ending_is_started_again_ever_more_slowly() -> None:
    service = Service("short", [sys.executable, "-c", "raise SystemExit(3)"], {}, None)
    told: list[str] = []

    def restarted_four_times() -> bool:
        if happened := service.restart_if_due():
            told.append(happened)
            service.due = time.monotonic()  # do not wait for it here
        return len(told) == 4

    service.start()
    servers.wait_until(restarted_four_times)
    service.stop(time.monotonic())

    assert told == [
        f"short ended with 3; starting it again in {pause} s" for pause in ("1", "2", "4", "8")
    ]


def test_the_client_alone_names_the_extra_that_serves(tmp_path: Path) -> None:
    package = tmp_path / "idefiq"
    source = Path(__file__).parents[2] / "idefiq"
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))

    failed = subprocess.run(
        [sys.executable, "-m", "idefiq", "up"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert failed.returncode == 2
    assert "the server is not installed: pip install 'idefiq[server]'" in failed.stderr


def test_a_model_that_is_named_twice_gets_two_engines(tmp_path: Path) -> None:
    stack = Stack(tmp_path, port=0, models=["echo", "echo"], log=tmp_path / "log")
    query = "SELECT DISTINCT worker FROM sessions WHERE stage = 'generate'"

    with stack.running(), sqlite3.connect(tmp_path / "idefiq.db") as record:
        servers.wait_until(lambda: len(record.execute(query).fetchall()) == 2, what="two engines")

    assert [service.name for service in stack.services][-2:] == ["engine echo", "engine echo 2"]
