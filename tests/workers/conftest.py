"""Checkpoints are built once per run, outside the repository."""

from collections.abc import Callable
from pathlib import Path

import pytest
import transformers

from tests.workers.families import exact, tiny
from tests.workers.families.reference import Reference
from workers.families.family import TransformersFamily

transformers.utils.logging.disable_progress_bar()

Folder = Callable[[str], Path]
Load = Callable[[str], TransformersFamily]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The folder of a tiny checkpoint, by its name in `tiny.CHECKPOINTS`."""
    root = tmp_path_factory.mktemp("checkpoints")

    def folder(name: str) -> Path:
        if not (root / name).exists():
            tiny.CHECKPOINTS[name](root / name)
        return root / name

    return folder


@pytest.fixture(scope="session")
def loaded_family(checkpoint: Folder) -> Load:
    """A tiny checkpoint as the service loads it."""
    families: dict[str, TransformersFamily] = {}

    def load(name: str) -> TransformersFamily:
        if name not in families:
            families[name] = exact.load(checkpoint(name), name)
        return families[name]

    return load


@pytest.fixture(scope="session")
def reference(checkpoint: Folder) -> Callable[[str], Reference]:
    """The same checkpoint as the documentation of transformers loads and calls it."""
    loaded: dict[str, Reference] = {}

    def load(name: str) -> Reference:
        if name not in loaded:
            loaded[name] = Reference(checkpoint(name))
        return loaded[name]

    return load


@pytest.fixture
def gpu_family(checkpoint: Folder) -> Load:
    """A tiny checkpoint that the test may move elsewhere: loaded for it alone."""
    return lambda name: exact.load(checkpoint(name), name)
