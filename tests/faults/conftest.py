"""Fixtures of the faults: one zygote for all, surroundings for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import surroundings, zygote
from tests.faults.history import Pictures
from tests.faults.surroundings import Surroundings
from tests.faults.zygote import Zygote


@pytest.fixture(scope="session")
def forks() -> Iterator[Zygote]:
    """Where processes come from."""
    with zygote.running() as made:
        yield made


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Surroundings]:
    """SQLite and a folder."""
    with surroundings.embedded(tmp_path / "embedded") as made:
        yield made


@pytest.fixture
def real(tmp_path: Path, _cluster: str, s3_endpoint: str) -> Iterator[Surroundings]:
    """Postgres and an S3 store."""
    with surroundings.real(tmp_path / "real", _cluster, s3_endpoint) as made:
        yield made


@pytest.fixture(params=["embedded", "real"])
def around(request: pytest.FixtureRequest) -> Surroundings:
    """Each of the two."""
    made: Surroundings = request.getfixturevalue(request.param)
    return made


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    """Images, and what echo says of them."""
    return Pictures(tmp_path_factory.mktemp("pictures"))
