"""The official client, unmodified, on an API whose workers are played."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest

from db.sql.database import Database
from tests.played import Played


@pytest.fixture
def client(http: httpx2.Client) -> Iterator[openai.OpenAI]:
    """As a program has it: it must send some key, though none is needed."""
    base = f"{http.base_url}/v1".replace("//v1", "/v1")
    with openai.OpenAI(base_url=base, api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
def played(http: httpx2.Client, offered: Database, tmp_path: Path) -> Played:
    """Workers of the API's record."""
    return Played(offered, tmp_path)
