"""Fixtures of all tests: real databases, Redis and an S3 store, each started once."""

import os
import secrets
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import hypothesis
import psycopg
import pytest
import uvicorn

from api.app import create_app
from api.connections import MAX_OPEN_FILES, guarded_protocol
from api.settings import ApiSettings
from db.queue import sessions
from db.settings import StorageSettings
from db.sql import schema
from db.sql.database import Database
from idefiq import protocol
from tests import reaper, servers
from tests.served import CARD, Serve
from tests.servers import PATIENCE_SECONDS

# No verdict depends on the time that an example takes, nor on chance.
hypothesis.settings.register_profile("usual", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("usual")
#: `make faults-long` runs a hundred times as many sequences of the state machine.
hypothesis.settings.register_profile("long", deadline=None, derandomize=False, print_blob=True)

# With one thread each, tests that compute side by side do not wait for each other at barriers.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # noqa: TID251 - read by torch when it is loaded
# What `idefiq up` notes for its user's programs, each process of the suite has for itself.
_STATE = tempfile.TemporaryDirectory(prefix="idefiq-state-")
os.environ["XDG_STATE_HOME"] = _STATE.name  # noqa: TID251 - read by the client and `idefiq up`
# A run that is killed leaves no server behind.
reaper.start()
# A shell ignores SIGINT in what it starts with `&`, and processes of the tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


#: Fixtures that start a server, the API among them, or build a model.
SLOW_FIXTURES = frozenset(
    {"_cluster", "checkpoint", "gpu", "redis_server", "reference", "s3_endpoint", "serve", "wide"}
)
#: Values of parameters that ask for such a fixture.
SLOW_VALUES = frozenset({"postgres", "real", "s3"})
#: Folders, modules and classes whose tests start processes of the service, or take long.
SLOW_PLACES = (
    "tests/deploy/",
    "tests/docs/test_alt_check.py",
    "tests/e2e/",
    "tests/faults/",
    "tests/api/test_access.py::TestOperatorsCommands",
    "tests/api/test_surface.py",
    "tests/db/test_machine.py",
    "tests/idefiq/test_engines.py",
    "tests/idefiq/test_up.py",
    "tests/workers/demo/test_demo.py::test_no_scene_that_is_evaluated",
    "tests/workers/demo/test_demo.py::test_training_goes_on",
    "tests/workers/families/test_full_size.py",
    "tests/workers/gpu/",
    "tests/workers/operator/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of `make test-fast`."""
    for item in items:
        values = item.callspec.params.values() if hasattr(item, "callspec") else ()
        is_slow = (
            not SLOW_FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))
            or not SLOW_VALUES.isdisjoint(value for value in values if isinstance(value, str))
            or item.nodeid.startswith(SLOW_PLACES)
        )
        if not is_slow:
            item.add_marker(pytest.mark.fast)


@pytest.fixture(scope="session")
def _cluster() -> Iterator[str]:
    with servers.postgres() as url:
        name = url.rpartition("/")[0] + "/migrated"
        _run_sql(url, "CREATE DATABASE migrated")
        database = Database(name)
        schema.migrate(database)
        database.dispose()
        yield url


def _run_sql(url: str, statement: str) -> None:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(statement.encode())


@pytest.fixture
def postgres_url(_cluster: str) -> Iterator[str]:
    """The URL of a fresh, migrated Postgres database."""
    name = f"test_{secrets.token_hex(6)}"
    _run_sql(_cluster, f"CREATE DATABASE {name} TEMPLATE migrated")
    yield f"{_cluster.rpartition('/')[0]}/{name}"
    _run_sql(_cluster, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def _migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "migrated.db"
    database = Database(f"sqlite:///{path}")
    schema.migrate(database)
    database.dispose()  # the last connection brings the log into the file
    return path


@pytest.fixture
def sqlite_url(_migrated_file: Path, tmp_path: Path) -> str:
    """The URL of a fresh, migrated SQLite database."""
    path = tmp_path / "idefiq.db"
    path.write_bytes(_migrated_file.read_bytes())
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """The record on each of the two databases: one contract."""
    database = Database(request.getfixturevalue(f"{request.param}_url"))
    yield database
    database.dispose()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[servers.RedisServer]:
    """A Redis that the test may kill, start and empty."""
    server = servers.RedisServer(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of a real S3 store."""
    with servers.swift(tmp_path_factory.mktemp("swift")) as endpoint:
        yield endpoint


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """Look until a condition holds; see servers.wait_until."""
    return servers.wait_until


# ---- an API, over real HTTP, with a model offered and nobody to run it ----------------


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start an API on a record; returns a client of it."""
    started: list[tuple[uvicorn.Server, threading.Thread, httpx2.Client]] = []

    def start(
        url: str, *, store: StorageSettings | None = None, **settings: object
    ) -> httpx2.Client:
        port = servers.free_port()
        values = {"port": port, "redis_url": "redis://127.0.0.1:1/0", **settings}
        record = store or StorageSettings(store_folder=tmp_path / "blobs")
        record = record.model_copy(update={"database_url": url})
        chosen = ApiSettings.model_validate(values)
        config = uvicorn.Config(
            create_app(record, chosen),
            host="127.0.0.1",
            port=port,
            http=guarded_protocol(chosen, MAX_OPEN_FILES),
            ws="none",
            log_config=None,
            access_log=False,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        servers.wait_until(lambda: server.started, what="the API")
        client = httpx2.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS, verify=protocol.tls()
        )
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
