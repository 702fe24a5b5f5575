"""What operators copy is complete and agrees with the code."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from api.settings import ApiSettings
from db.settings import StorageSettings
from tests.deploy import installed
from workers.settings import EngineSettings, IntakeSettings, UpkeepSettings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SETTINGS: list[type[BaseSettings]] = [
    StorageSettings,
    ApiSettings,
    IntakeSettings,
    EngineSettings,
    UpkeepSettings,
]


def fields() -> dict[str, Any]:
    return {
        f"IDEFIQ_{name.upper()}": field
        for settings in SETTINGS
        for name, field in settings.model_fields.items()
    }


def test_the_example_lists_every_setting_with_its_words_and_its_default() -> None:
    text = (DEPLOY / "env.example").read_text()
    listed = dict(re.findall(r"^#(IDEFIQ_\w+)=(.*)$", text, re.MULTILINE))

    assert listed.keys() == fields().keys()
    for name, field in fields().items():
        assert f"# {field.description}\n#{name}=" in text, name
        if isinstance(field.default, int | float | str) and not isinstance(field.default, bool):
            assert listed[name] == str(field.default), name
        assert field.default is not PydanticUndefined or listed[name] == "", name


def test_every_setting_has_a_description() -> None:
    assert [name for name, field in fields().items() if not field.description] == []


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return loaded


def test_compose_uses_only_settings_that_exist() -> None:
    used = {
        name
        for service in compose()["services"].values()
        for name in service.get("environment", {})
        if name.startswith("IDEFIQ_")
    }

    assert used
    assert used <= fields().keys()


def test_compose_builds_from_existing_files_and_runs_every_process() -> None:
    services = compose()["services"]

    for service in services.values():
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert {"postgres", "redis", "store", "api", "upkeep", "intake", "engine"} <= services.keys()


@pytest.mark.parametrize("stage", ["api", "intake", "engine"])
def test_an_image_copies_existing_files_and_runs_as_an_unprivileged_user(stage: str) -> None:
    assert [path for path in installed.copied() if not (ROOT / path).exists()] == []
    assert "USER 10001" in installed.stages()[stage]
    assert "constraints.txt" in installed.stages()[stage]


def test_compose_names_targets_of_the_dockerfile() -> None:
    services = compose()["services"].values()
    targets = {service["build"]["target"] for service in services if "build" in service}

    assert targets == {"api", "intake", "engine"} <= installed.stages().keys()


def test_images_without_a_model_install_no_torch() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]

    for stage in ("api", "intake"):
        names = {re.split(r"[\[><=]", needed)[0] for needed in extras[installed.extra_of(stage)]}
        assert names.isdisjoint({"torch", "transformers"})
        assert not any("engine" in needed for needed in extras[stage])
