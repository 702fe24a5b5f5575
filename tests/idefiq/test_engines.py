"""`idefiq up --gpus`: an engine on each GPU, under a name of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from idefiq import Client
from idefiq.engines import EngineProcess, engines
from idefiq.errors import IdefiqError
from tests import servers
from tests.servers import PATIENCE_SECONDS

#: A torch with two GPUs, as far as anybody asks who does not compute.
TORCH = """
__version__ = "2.13.0"

class cuda:
    is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 2)
    mem_get_info = staticmethod(lambda index: (70 * 2**30, 80 * 2**30))
    get_device_name = staticmethod(lambda index: f"Pretended {index}")
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "pretended" / "torch").mkdir(parents=True)
    (tmp_path / "pretended" / "torch" / "__init__.py").write_text(TORCH)
    return {**os.environ, "PYTHONPATH": str(tmp_path / "pretended")}  # noqa: TID251 - for processes


def settings(found: list[EngineProcess]) -> list[tuple[str, str, str]]:
    names = ("IDEFIQ_MODEL", "IDEFIQ_DEVICE", "IDEFIQ_WORKER_NAME")
    return [tuple(engine.settings.get(name, "") for name in names) for engine in found]  # type: ignore[misc]


def test_one_model_has_an_engine_on_every_gpu() -> None:
    found = engines(["a"], [0, 2], host="h", dtype=None)

    assert settings(found) == [("a", "cuda:0", "h-gpu0-1"), ("a", "cuda:2", "h-gpu2-2")]
    assert [engine.name for engine in found] == ["engine a on cuda:0", "engine a 2 on cuda:2"]
    assert {engine.settings["IDEFIQ_DTYPE"] for engine in found} == {"bfloat16"}


def test_several_models_share_the_gpus_and_none_is_left_out() -> None:
    assert settings(engines(["a", "b", "c"], [0, 1], host="h", dtype="float16")) == [
        ("a", "cuda:0", "h-gpu0-1"),
        ("b", "cuda:1", "h-gpu1-1"),
        ("c", "cuda:0", "h-gpu0-1"),
    ]


def test_without_gpus_an_engine_runs_where_the_settings_say() -> None:
    assert settings(engines(["a", "a"], [], host="h", dtype=None)) == [
        ("a", "", ""),
        ("a", "", "h-2"),
    ]


def test_an_engine_runs_on_each_gpu_that_is_here(tmp_path: Path, env: dict[str, str]) -> None:
    port, log = servers.free_port(), tmp_path / "log"
    command = [sys.executable, "-m", "idefiq", "up", "--gpus", "all", "--model", "echo"]
    command += ["--data", str(tmp_path / "data"), "--port", str(port)]
    with servers.running(command, log, env=env) as process:

        def both() -> bool:
            try:
                with Client(f"http://127.0.0.1:{port}") as client:
                    return [model.workers for model in client.models()] == [2]
            except IdefiqError:
                return False

        servers.wait_until(both, process=process, what="two engines")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        words = "\0".join(Path(f"/proc/{child}/environ").read_text() for child in children)
        devices = {word for word in words.split("\0") if word.startswith("IDEFIQ_DEVICE=")}
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE_SECONDS)

    assert devices == {"IDEFIQ_DEVICE=cuda:0", "IDEFIQ_DEVICE=cuda:1"}


@pytest.mark.parametrize(
    ("gpus", "said"),
    [
        ("0,5", "no GPU 5; available: [0, 1]"),
        ("first", "expected all, or numbers such as 0,1"),
        ("0,", "expected all, or numbers such as 0,1"),
    ],
)
def test_a_gpu_that_is_not_here_is_refused_before_anything_starts(
    gpus: str, said: str, env: dict[str, str], tmp_path: Path
) -> None:
    command = [
        sys.executable,
        "-m",
        "idefiq",
        "up",
        "--gpus",
        gpus,
        "--data",
        str(tmp_path / "data"),
    ]
    done = subprocess.run(command, env=env, capture_output=True, text=True)

    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "data").exists()
