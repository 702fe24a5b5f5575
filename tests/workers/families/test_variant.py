"""Which engines of a model are one variant of it."""

from pathlib import Path
from typing import Any

from workers.families import echo, identity
from workers.settings import EngineSettings

CARD = echo.load(EngineSettings(model="echo")).card


def variant(folder: Path, template: str = "{prompt}", **settings: Any) -> str:
    (folder / "config.json").write_text("{}")
    chosen = EngineSettings.model_validate({"model": "a model", **settings})
    return identity.variant(chosen, folder, template, CARD)


def test_the_gpus_of_a_host_serve_one_variant(tmp_path: Path) -> None:
    devices = [variant(tmp_path, device=device) for device in ("cuda:0", "cuda:1", "cpu")]

    assert len({*devices, variant(tmp_path, slots=4)}) == 1


def test_another_template_option_or_checkpoint_is_another_variant(tmp_path: Path) -> None:
    before = variant(tmp_path)
    others = {variant(tmp_path, "{images}{prompt}"), variant(tmp_path, attention="eager")}
    (tmp_path / "tokenizer.json").write_text("{}")

    assert len({before, *others, variant(tmp_path)}) == 4
