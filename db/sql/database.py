"""A connection pool and its transactions: `Database(url).transaction()`.

SQLite (WAL) and Postgres 15+ take the same statements. On SQLite every transaction begins as a
writer, so that two of them wait for each other instead of failing half-way; reads that need no
lock use `snapshot()`.
"""

import functools
import logging
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import orjson
from prometheus_client import Histogram
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DataError, DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from db import metrics
from db.vocabulary.errors import RequestError, StorageError
from db.vocabulary.lines import json_text

Transaction = Connection
T = TypeVar("T")

#: How long a writer waits for another on SQLite; less than a lease lives.
BUSY_MILLISECONDS = 10_000
#: A peer that vanished without a word is given up within seconds, a statement in two minutes.
POSTGRES = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "options": "-c statement_timeout=120000 -c idle_in_transaction_session_timeout=60000",
}

#: SQLSTATE of a Postgres that takes no writes: a standby, after a failover.
READ_ONLY = "25006"
_VERBS = ("select", "insert", "update", "delete", "with")
#: Engines whose connections are counted.
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()

log = logging.getLogger(__name__)


class Database:
    """A pool of connections to one database.

    Args:
        url: SQLAlchemy URL of a SQLite file or a Postgres database.
        pool: Most connections kept open.
    """

    def __init__(self, url: str, *, pool: int = 8) -> None:
        parsed = make_url(url)
        self.url = url
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        #: Folder of the SQLite file; None for a server.
        self.folder: Path | None = None
        if self.is_sqlite and parsed.database:
            self.folder = Path(parsed.database).parent
            self.folder.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {} if self.is_sqlite else {"connect_args": POSTGRES}
        self.engine: Engine = create_engine(
            parsed,
            pool_size=pool,
            max_overflow=0,
            pool_timeout=10,
            pool_pre_ping=True,
            json_serializer=json_text,
            json_deserializer=orjson.loads,
            **options,
        )
        _engines.add(self.engine)
        event.listen(self.engine, "before_cursor_execute", _begin_statement)
        event.listen(self.engine, "after_cursor_execute", _end_statement)
        if self.is_sqlite:
            event.listen(self.engine, "connect", _set_up_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Open a transaction that commits at the end of the block, or rolls back.

        Raises:
            StorageError: The database is away or refuses to work; nothing was committed, or,
                if the connection broke during the commit itself, it is not known.
        """
        with _translated(), self.engine.begin() as transaction:
            yield transaction

    @contextmanager
    def snapshot(self) -> Iterator[Transaction]:
        """Open a read-only transaction that sees one moment of the database."""
        with _translated():
            reader = self.engine.execution_options(idefiq_reads=True)
            if not self.is_sqlite:  # one moment is all that a transaction of SQLite ever sees
                reader = reader.execution_options(isolation_level="REPEATABLE READ")
            with reader.begin() as connection:
                yield connection

    def retrying(self, work: Callable[[Transaction], T], *, while_: Callable[[], bool]) -> T:
        """Run `work` in a transaction, and again after a StorageError while `while_` is true.

        Only for work that may run twice.
        """
        pause = 0.05
        while True:
            try:
                with self.transaction() as transaction:
                    return work(transaction)
            except StorageError:
                if not while_():
                    raise
                time.sleep(pause)
                pause = min(pause * 2, 2.0)

    def dispose(self) -> None:
        """Close all connections."""
        self.engine.dispose()
        _engines.discard(self.engine)


def _connections(*counts: str) -> int:
    """Sum up counts of the pools of all databases of this process."""
    pools = [engine.pool for engine in list(_engines)]
    return sum(getattr(pool, count)() for pool in pools for count in counts)


metrics.DATABASE_CONNECTIONS.labels("open").set_function(
    lambda: _connections("checkedout", "checkedin")
)
metrics.DATABASE_CONNECTIONS.labels("in_use").set_function(lambda: _connections("checkedout"))
metrics.DATABASE_CONNECTIONS_MAX.set_function(lambda: _connections("size"))


def _begin_statement(*event_arguments: Any) -> None:
    context = event_arguments[4]
    if context is not None:
        context.idefiq_began = time.perf_counter()


def _end_statement(_: object, __: object, statement: str, *rest: Any) -> None:
    context = rest[1]
    if context is not None:
        _seconds_of(statement).observe(time.perf_counter() - context.idefiq_began)


@functools.lru_cache(maxsize=4_096)
def _seconds_of(statement: str) -> Histogram:
    word = statement.lstrip()[:6].rstrip().lower()
    verb = next((verb for verb in _VERBS if word.startswith(verb)), "other")
    return metrics.DATABASE_STATEMENT_SECONDS.labels(verb)


@contextmanager
def _translated() -> Iterator[None]:
    """Turn errors of an unavailable database into StorageError; others pass unchanged."""
    try:
        yield
    except PoolTimeout as error:
        metrics.DATABASE_POOL_TIMEOUTS.inc()
        raise _away(error) from error
    except OperationalError as error:
        raise _away(error) from error
    except DBAPIError as error:
        if error.connection_invalidated or getattr(error.orig, "sqlstate", "") == READ_ONLY:
            raise _away(error) from error
        if isinstance(error, DataError):
            raise RequestError("a value in the request cannot be stored") from error
        raise


def _away(error: SQLAlchemyError) -> StorageError:
    # The driver's words name hosts and users: they belong into the log alone.
    metrics.DATABASE_ERRORS.inc()
    log.warning("database: %s", str(error).partition("\n")[0])
    return StorageError("the database is unavailable")


def _set_up_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # BEGIN is sent by _begin_sqlite, not by the driver
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")  # a 202 has to survive a power cut
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    reads = connection.get_execution_options().get("idefiq_reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
