"""`idefiq models pull`: a checkpoint is downloaded once, if there is room for it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hub import COMMIT, Hub
from tests.servers import PATIENCE_SECONDS

NAME = "team/tiny"
#: The same program on a machine whose disk is nearly full.
FULL = """
import collections, runpy, shutil, sys
usage = collections.namedtuple("usage", "total used free")
shutil.disk_usage = lambda path: usage(2**40, 2**40 - 2**20, 2**20)
runpy.run_module("workers.operator.pull", run_name="__main__")
"""


@pytest.fixture
def hub(checkpoint: Callable[[str], Path], tmp_path: Path) -> Iterator[Hub]:
    shutil.copytree(checkpoint("idefics2"), tmp_path / "on-the-hub")
    (tmp_path / "on-the-hub" / "pytorch_model.bin").write_bytes(b"never wanted")
    with Hub({NAME: tmp_path / "on-the-hub"}).running() as hub:
        yield hub


def pull(
    hub: Hub, cache: Path, *words: str, program: str | None = None, **settings: str
) -> "subprocess.CompletedProcess[str]":
    env = {
        **os.environ,  # noqa: TID251 - for the process
        "HF_ENDPOINT": hub.url,
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **settings,
    }
    start = ["-m", "idefiq", "models", "pull"] if program is None else ["-c", program]
    command = [sys.executable, *start, *(words or (NAME,))]
    return subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )


def test_a_checkpoint_is_downloaded_once_and_its_folder_is_printed(
    hub: Hub, tmp_path: Path
) -> None:
    first = pull(hub, tmp_path / "cache")
    asked = len(hub.asked)
    again = pull(hub, tmp_path / "cache")

    assert first.returncode == 0, first.stderr
    assert "files, " in first.stdout
    assert " to download" in first.stdout
    assert COMMIT in first.stdout.splitlines()[-1]
    # Progress is shown of what takes long.
    assert "100%" in first.stderr
    assert again.stdout.startswith(f"{NAME} is here already: ")
    assert len(hub.asked) == asked
    assert not any("pytorch_model" in line for line in hub.asked)


def test_a_download_that_is_cut_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    """In steps of the library's 10 MiB: what is smaller begins anew."""
    step = 10 * 2**20
    large = hub.repositories[NAME] / "large.safetensors"
    large.write_bytes(bytes(2 * step))
    hub.cut_after = {large.name: step + 100_000}

    done = pull(hub, tmp_path / "cache")

    assert done.returncode == 0, done.stderr
    [again] = [line for line in hub.asked if "large" in line and "bytes=" in line]
    assert again.endswith(f"large.safetensors bytes={step}-")


def test_a_full_disk_is_reported_before_anything_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    done = pull(hub, tmp_path / "cache", program=FULL)

    assert done.returncode == 1
    assert "are to be downloaded to" in done.stderr
    assert "set HF_HOME to a folder on a larger disk" in done.stderr
    assert not any("safetensors" in line for line in hub.asked)


def test_an_error_of_a_gated_checkpoint_names_its_terms_and_hf_token(
    hub: Hub, tmp_path: Path
) -> None:
    hub.gated = True

    done = pull(hub, tmp_path / "cache")

    assert done.returncode == 1
    assert f"model '{NAME}' is gated: accept its terms" in done.stderr
    assert "set HF_TOKEN" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_hub_that_cannot_be_reached_is_a_clear_error(tmp_path: Path) -> None:
    done = pull(Hub({}, url="http://127.0.0.1:1"), tmp_path / "cache")

    assert done.returncode == 1
    assert "the download failed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("team/other",),
            "the hub has none of this name, or shows it only to those who set HF_TOKEN",
        ),
        ((NAME, "--revision", "v9"), f"'{NAME}' has no revision 'v9'"),
        (("no name/of a hub/at all",), "neither a folder nor a name of the hub"),
    ],
)
def test_what_the_hub_does_not_have_is_a_clear_error(
    words: tuple[str, ...], said: str, hub: Hub, tmp_path: Path
) -> None:
    done = pull(hub, tmp_path / "cache", *words)

    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_weights_that_do_not_fit_the_device_are_reported_before_they_are_downloaded(
    hub: Hub, tmp_path: Path
) -> None:
    small = "import psutil, runpy, types\n" + (
        "psutil.virtual_memory = lambda: types.SimpleNamespace(total=2**20, available=2**20)\n"
        "runpy.run_module('workers.operator.pull', run_name='__main__')\n"
    )
    done = pull(hub, tmp_path / "cache", program=small)

    assert done.returncode == 0, done.stderr
    assert "warning: its weights take " in done.stderr
    assert "IDEFIQ_DTYPE=bfloat16 halves them; IDEFIQ_QUANTIZE=nf4 takes" in done.stderr
