"""A checkpoint by its name on the hub: one commit, downloaded once, and never code."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers

from tests.hub import COMMIT, Hub
from tests.servers import PATIENCE_SECONDS

NAME = "team/tiny"
SHOW = """
from workers import families
from workers.settings import EngineSettings
card = families.load(EngineSettings()).card
print(card.revision, card.family)
"""


@pytest.fixture
def hub(checkpoint: Callable[[str], Path], tmp_path: Path) -> Iterator[Hub]:
    """A hub with one checkpoint, its weights in several files."""
    folder = tmp_path / "on-the-hub"
    shutil.copytree(checkpoint("idefics2"), folder)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="300KB")
    assert len([*folder.glob("*.safetensors")]) > 2
    with Hub({NAME: folder}).running() as hub:
        yield hub


def run(hub: Hub, cache: Path, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run in a process of its own: the hub's address is read when its library is imported."""
    env = {
        **os.environ,  # noqa: TID251 - for the process
        "HF_ENDPOINT": hub.url,
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "IDEFIQ_MODEL": NAME,
        **settings,
    }
    return subprocess.run(
        [sys.executable, *(command or ("-c", SHOW))],
        env=env,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def test_a_checkpoint_is_downloaded_once_and_then_the_hub_is_left_alone(
    hub: Hub, tmp_path: Path
) -> None:
    first = run(hub, tmp_path / "cache", IDEFIQ_MODEL_REVISION=COMMIT)
    asked = len(hub.asked)
    again = run(hub, tmp_path / "cache", IDEFIQ_MODEL_REVISION=COMMIT)

    assert first.stdout == f"{COMMIT} idefics2\n", first.stderr
    assert asked > 0
    assert again.stdout == first.stdout
    assert len(hub.asked) == asked


def test_a_branch_is_pinned_to_the_commit_that_it_had(hub: Hub, tmp_path: Path) -> None:
    first = run(hub, tmp_path / "cache")
    asked = len(hub.asked)
    again = run(hub, tmp_path / "cache")

    assert first.stdout == f"{COMMIT} idefics2\n", first.stderr
    assert again.stdout == first.stdout
    assert len(hub.asked) == asked


def test_a_download_that_is_cut_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    """In steps of the library's 10 MiB: what is smaller begins anew."""
    step = 10 * 2**20
    large = {"unused": torch.zeros(5 * 2**20)}
    safetensors.torch.save_file(large, hub.repositories[NAME] / "large.safetensors")
    hub.cut_after = {"large.safetensors": step + 100_000}

    loaded = run(hub, tmp_path / "cache", IDEFIQ_MODEL_REVISION=COMMIT)

    assert loaded.stdout == f"{COMMIT} idefics2\n", loaded.stderr
    [again] = [line for line in hub.asked if "large" in line and "bytes=" in line]
    assert again.endswith(f"large.safetensors bytes={step}-")


def test_an_unknown_revision_is_a_clear_error_at_start(hub: Hub, tmp_path: Path) -> None:
    ended = run(hub, tmp_path / "cache", "-m", "workers", "engine", IDEFIQ_MODEL_REVISION="v9")

    assert ended.returncode == 78
    assert f"'{NAME}' has no revision 'v9'; set IDEFIQ_MODEL_REVISION" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_unknown_name_is_a_clear_error_at_start(hub: Hub, tmp_path: Path) -> None:
    ended = run(hub, tmp_path / "cache", "-m", "workers", "engine", IDEFIQ_MODEL="team/other")

    assert ended.returncode == 78
    assert "there is no checkpoint at 'team/other'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_pickled_weights_are_refused_with_the_reason(hub: Hub, tmp_path: Path) -> None:
    folder = hub.repositories[NAME]
    for file in [*folder.glob("*.safetensors"), *folder.glob("*.index.json")]:
        file.unlink()
    torch.save({}, folder / "pytorch_model.bin")

    ended = run(hub, tmp_path / "cache", "-m", "workers", "engine")

    assert ended.returncode == 78
    assert "no weights as safetensors; pickled ones (.bin, .pt) could run code" in ended.stderr
    assert not any("pytorch_model.bin" in line for line in hub.asked)


def test_a_hub_that_is_away_is_a_clear_error_at_start(hub: Hub, tmp_path: Path) -> None:
    away = Hub({}, url="http://127.0.0.1:1")

    ended = run(away, tmp_path / "cache", "-m", "workers", "engine")

    assert ended.returncode == 78
    assert f"there is no checkpoint at '{NAME}'" in ended.stderr


def test_code_of_a_checkpoint_is_never_run(hub: Hub, tmp_path: Path) -> None:
    """Neither downloaded, nor run when it is in the folder."""
    folder = hub.repositories[NAME]
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w')\n"
    (folder / "modeling_own.py").write_text(code)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(
        config.replace("{", '{"auto_map": {"AutoModel": "modeling_own.Own"},', 1)
    )

    from_hub = run(hub, tmp_path / "cache")
    from_folder = run(hub, tmp_path / "cache", IDEFIQ_MODEL_PATH=str(folder))

    assert from_hub.stdout == f"{COMMIT} idefics2\n", from_hub.stderr
    assert from_folder.stdout == " idefics2\n", from_folder.stderr
    assert not any("modeling_own" in line for line in hub.asked)
    assert not ran.exists()
