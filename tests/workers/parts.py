"""Parts of a worker, made from a test's database and folder."""

from pathlib import Path

from db.blobs.folder import FolderStore
from db.queue.lease import RetryPolicy
from db.settings import StorageSettings
from db.sql.database import Database
from db.vocabulary.states import Stage
from tests.db import builders
from workers.broker import Wakes, make_app
from workers.lease_writer import LeaseWriter
from workers.notices import Notices
from workers.session import Session
from workers.settings import BrokerSettings, UpkeepSettings
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


def upkeep(database: Database, folder: Path, **settings: object) -> Upkeep:
    """Upkeep on the folder's store."""
    chosen = record(database, folder, **settings)
    buckets = Buckets(chosen)
    kept = UpkeepSettings.model_validate(settings)
    return Upkeep(database, store(folder), buckets, wakes(), notices(), kept, chosen.limits)


def store(folder: Path) -> FolderStore:
    return FolderStore(folder / "blobs")


def wakes() -> Wakes:
    """Wakes for a Redis that is not there."""
    return Wakes(make_app(BrokerSettings(redis_url="redis://127.0.0.1:1/0")))
