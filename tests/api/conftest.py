"""The API alone, over real HTTP, with a model offered and nobody to run it."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
import uvicorn

from api.app import create_app
from api.settings import ApiSettings
from db import sessions
from db.database import Database
from db.requests import Limits, ModelCard
from db.settings import RecordSettings
from tests import servers

CARD = ModelCard(
    name="echo",
    family="echo",
    kinds=["caption", "vqa"],
    limits=Limits(max_images=2, max_new_tokens=64),
    licence="Apache-2.0",
    note="Not a model.",
)

Serve = Callable[..., httpx2.Client]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start an API on a record; returns a client of it."""
    started: list[tuple[uvicorn.Server, threading.Thread, httpx2.Client]] = []

    def start(url: str, **settings: object) -> httpx2.Client:
        port = servers.free_port()
        values = {"port": port, "redis_url": "redis://127.0.0.1:1/0", **settings}
        record = RecordSettings(database_url=url, store_folder=tmp_path / "blobs")
        app = create_app(record, ApiSettings.model_validate(values))
        server = uvicorn.Server(
            uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, access_log=False)
        )
        thread = threading.Thread(target=server.run)
        thread.start()
        servers.wait_until(lambda: server.started, what="the API")
        client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        started.append((server, thread, client))
        return client

    yield start
    for server, thread, client in started:
        client.close()
        server.should_exit = True
        thread.join()


@pytest.fixture
def offered(database: Database) -> Database:
    """A record in which the echo model was offered."""
    with database.transaction() as transaction:
        sessions.offer(transaction, CARD)
    return database


@pytest.fixture
def http(serve: Serve, offered: Database) -> httpx2.Client:
    """A client of an API on each of the two databases."""
    return serve(offered.url)


@pytest.fixture
def http_sqlite(serve: Serve, sqlite_url: str) -> httpx2.Client:
    """A client of an API on SQLite, where the database does not matter."""
    database = Database(sqlite_url)
    with database.transaction() as transaction:
        sessions.offer(transaction, CARD)
    database.dispose()
    return serve(sqlite_url)
