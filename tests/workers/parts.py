"""Parts of a worker, made from a test's database and folder."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from db.blobs.folder import FolderStore
from db.queue.lease import RetryPolicy
from db.settings import StorageSettings
from db.sql.database import Database
from db.vocabulary.states import Stage
from tests.db import builders
from workers.broker import Wakes, make_app
from workers.intake.check import Checkers
from workers.intake.fetch import Fetcher
from workers.intake.intake import Intake
from workers.intake.source import Sources
from workers.intake.threads import HostTurns
from workers.lease_writer import LeaseWriter
from workers.notices import Notices
from workers.session import Session
from workers.settings import BrokerSettings, IntakeSettings, UpkeepSettings
from workers.upkeep.listing import Buckets
from workers.upkeep.upkeep import Upkeep


def record(database: Database, folder: Path, **settings: object) -> StorageSettings:
    values = {"database_url": database.url, "store_folder": folder, **settings}
    return StorageSettings.model_validate(values)


def session(
    database: Database, folder: Path, stage: Stage = Stage.GENERATE, **settings: object
) -> Session:
    """A session that heartbeats often."""
    chosen = record(database, folder, **{"heartbeat_seconds": 0.05, **settings})
    made = Session(chosen, worker=f"{stage}-worker", stage=stage, model=builders.MODEL)
    made.start()
    return made


def lease_writer(database: Database, session: Session) -> LeaseWriter:
    return LeaseWriter(
        database, session, RetryPolicy(max_attempts=3, first_wait_seconds=60.0), notices()
    )


def notices() -> Notices:
    """Notices for a Redis that is not there."""
    return Notices("redis://127.0.0.1:1/0")


@contextlib.contextmanager
def intake(
    database: Database,
    folder: Path,
    checkers: Checkers,
    *,
    threads: int = 8,
    has_room: threading.Event | None = None,
    **settings: object,
) -> Iterator[Intake]:
    """An intake of the folder's store inside the block."""
    chosen = IntakeSettings.model_validate({"intake_fetches": threads, **settings})
    hosts = HostTurns(chosen.fetch_per_host)
    fetcher = Fetcher(chosen, hosts)
    store_, record_ = store(folder), record(database, folder)
    session_ = session(database, folder, Stage.INTAKE)
    made = Intake(
        database,
        store_,
        Sources(database, store_, fetcher, record_, chosen.max_image_bytes),
        checkers,
        session_,
        wakes(),
        lease_writer(database, session_),
        threads=threads,
        hosts=hosts,
        stopping=threading.Event(),
        has_room=has_room or threading.Event(),
    )
    try:
        yield made
    finally:
        made.close()
        session_.stop()
        fetcher.close()


def upkeep(database: Database, folder: Path, **settings: object) -> Upkeep:
    """Upkeep on the folder's store."""
    chosen = record(database, folder, **settings)
    buckets = Buckets(chosen)
    kept = UpkeepSettings.model_validate(settings)
    stopping = threading.Event()
    return Upkeep(
        database, store(folder), buckets, wakes(), notices(), kept, chosen.limits, stopping
    )


def store(folder: Path) -> FolderStore:
    return FolderStore(folder / "blobs")


def wakes() -> Wakes:
    """Wakes for a Redis that is not there."""
    return Wakes(make_app(BrokerSettings(redis_url="redis://127.0.0.1:1/0")))
