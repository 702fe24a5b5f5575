"""The whole service, started as users start it, on each kind of surroundings."""

import contextlib
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from db.blobs.s3 import s3_client
from db.settings import StorageSettings
from idefiq import Client
from idefiq.up import Stack
from tests import servers
from tests.servers import PATIENCE_SECONDS

Env = dict[str, str]


@pytest.fixture
def embedded() -> Env:
    """SQLite, a folder and a private Redis: nothing to set."""
    return {}


@pytest.fixture
def real(postgres_url: str, redis_server: servers.RedisServer, s3_endpoint: str) -> Env:
    """Postgres, Redis and an S3 store."""
    env = {
        "IDEFIQ_DATABASE_URL": postgres_url,
        "IDEFIQ_REDIS_URL": redis_server.url,
        "IDEFIQ_STORE": "s3",
        "IDEFIQ_S3_BUCKET": f"e2e-{secrets.token_hex(4)}",
        "IDEFIQ_S3_ENDPOINT": s3_endpoint,
        "IDEFIQ_S3_ACCESS_KEY": servers.SWIFT_ACCESS_KEY,
        "IDEFIQ_S3_SECRET_KEY": servers.SWIFT_SECRET_KEY,
    }
    settings = StorageSettings(
        s3_endpoint=s3_endpoint,
        s3_access_key=servers.SWIFT_ACCESS_KEY,
        s3_secret_key=servers.SWIFT_SECRET_KEY,
    )
    s3_client(settings).create_bucket(Bucket=env["IDEFIQ_S3_BUCKET"])
    return env


@pytest.fixture(params=["embedded", "real"])
def surroundings(request: pytest.FixtureRequest) -> Env:
    """Each of the two."""
    env: Env = request.getfixturevalue(request.param)
    return env


Start = Callable[..., AbstractContextManager[tuple[Stack, Client]]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start the service with some settings; yields it and a client."""

    @contextlib.contextmanager
    def started(model: str, env: Env, **settings: str) -> Iterator[tuple[Stack, Client]]:
        extra = {**env, **{f"IDEFIQ_{name.upper()}": value for name, value in settings.items()}}
        log = tmp_path / "service.log"
        stack = Stack(tmp_path / "data", port=0, models=[model], log=log, extra=extra)
        try:
            with stack.running(seconds=PATIENCE_SECONDS), Client(stack.url) as client:
                yield stack, client
        except BaseException:
            print(log.read_text()[-8000:])
            raise

    return started


@contextlib.contextmanager
def another_engine(stack: Stack, name: str, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A second engine worker for the same model, as on another machine."""
    [engine] = [service for service in stack.services if service.name.startswith("engine")]
    env = {**engine.env, "IDEFIQ_WORKER_NAME": name}
    command = [sys.executable, "-m", "workers", "engine"]
    with servers.running(command, log, env=env) as process:
        yield process
