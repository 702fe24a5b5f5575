"""What the service needs to take work and to answer it, looked at part by part."""

import asyncio
import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from db.blobs.store import BlobStore
from db.queue import sessions
from db.settings import StorageSettings
from db.sql import schema
from db.sql.database import Database
from db.vocabulary.errors import StorageError
from db.vocabulary.states import Stage
from workers.notices import Notices

#: Anybody may ask, so nothing is written more often.
PROBE_SECONDS = 10.0
#: Longest wait for a look at the parts; what hangs is not ready.
LOOK_SECONDS = 5.0
#: With less free on a disk nothing new is taken; of a small disk, with less than this share.
MIN_FREE_BYTES, MIN_FREE_SHARE = 256 * 2**20, 0.05

WELL, UNREACHABLE = "ok", "unreachable"
HANGING = f"no answer within {LOOK_SECONDS:g} s"
NOT_LOOKED_AT = "not looked at: another part hangs"
OTHER_SCHEMA = "schema of another version; run `idefiq migrate`"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the service: what it is, whether it is well, and what is wrong if not."""

    name: str
    detail: str = WELL
    is_required: bool = True

    @property
    def is_ok(self) -> bool:
        """True if nothing is wrong with it."""
        return self.detail == WELL


@dataclass(frozen=True, slots=True)
class Readiness:
    """All parts, and the live workers.

    Attributes:
        engines: Live engines by model.
        intakes: Live intake workers.
    """

    parts: tuple[Part, ...]
    engines: dict[str, int] = field(default_factory=dict)
    intakes: int = 0

    @property
    def is_ready(self) -> bool:
        """True if every part that is required is well."""
        return all(part.is_ok for part in self.parts if part.is_required)

    def detail(self, name: str) -> str:
        """What is said of a part."""
        return next(part.detail for part in self.parts if part.name == name)


class ReadinessCheck:
    """Looks at the parts, in a thread of its own and for all who ask meanwhile at once.

    What has to be written is, at most once in PROBE_SECONDS.
    """

    def __init__(
        self, record: StorageSettings, database: Database, store: BlobStore, notices: Notices
    ) -> None:
        self._database, self._store, self._notices = database, store, notices
        self._folders = [Path(tempfile.gettempdir())]
        if record.store == "folder":
            self._folders.append(record.store_folder)
        if database.folder:
            self._folders.append(database.folder)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="readiness")
        self._looking: Future[Readiness] | None = None
        self._probed: dict[str, Part] = {}
        self._until = 0.0
        self._looks_at = "database"

    async def run(self) -> Readiness:
        """Look at every part. A look that takes too long goes on, and nothing is ready."""
        if self._looking is None or self._looking.done():
            self._looking = self._thread.submit(self._look)
        looking = asyncio.wrap_future(self._looking)
        try:
            return await asyncio.wait_for(asyncio.shield(looking), LOOK_SECONDS)
        except TimeoutError:
            return self._hanging()

    def _hanging(self) -> Readiness:
        """Name the part at which the look hangs, beside what is known of the others."""
        names = ("database", "store", "disk", "redis")
        unknown = {name: Part(name, NOT_LOOKED_AT, is_required=False) for name in names}
        hanging = {self._looks_at: Part(self._looks_at, HANGING)}
        return Readiness(tuple((unknown | self._probed | hanging).values()))

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _look(self) -> Readiness:
        workers: dict[tuple[Stage, str], int] = {}
        self._looks_at = "database"
        try:
            with self._database.snapshot() as transaction:
                is_current = schema.is_current(transaction)
                workers = sessions.alive(transaction) if is_current else {}
            database = Part("database", WELL if is_current else OTHER_SCHEMA)
        except StorageError:
            database = Part("database", UNREACHABLE)
        engines = {model: n for (stage, model), n in workers.items() if stage is Stage.GENERATE}
        intakes = sum(n for (stage, _), n in workers.items() if stage is Stage.INTAKE)
        probed = self._probe()
        if not database.is_ok:
            probed["database"] = database
        parts = (
            *probed.values(),
            Part("intake", WELL if intakes else "no intake worker is alive"),
            Part("engines", WELL if engines else "no engine with a loaded model is alive"),
        )
        return Readiness(parts, engines, intakes)

    def _probe(self) -> dict[str, Part]:
        """Write to the database and the store, and look at the disk and Redis, now and then."""
        if time.monotonic() > self._until:
            probes: dict[str, Callable[[], str]] = {
                "database": lambda: _failure(lambda: schema.check_writable(self._database)),
                "store": lambda: _failure(self._store.check_writable),
                "disk": self._disk,
                "redis": self._redis,
            }
            for name, probe in probes.items():
                self._looks_at = name
                self._probed[name] = Part(name, probe(), is_required=name != "redis")
            self._until = time.monotonic() + PROBE_SECONDS
        return dict(self._probed)

    def _redis(self) -> str:
        return WELL if self._notices.is_reachable() else UNREACHABLE

    def _disk(self) -> str:
        for folder in self._folders:
            try:
                usage = shutil.disk_usage(folder)
            except OSError as error:
                return f"{error.strerror}: a folder of the service"
            needed = min(MIN_FREE_BYTES, int(usage.total * MIN_FREE_SHARE))
            if usage.free < needed:
                return f"{usage.free / 2**20:.0f} MiB are free, fewer than {needed / 2**20:.0f} MiB"
        return WELL


def _failure(check: Callable[[], None]) -> str:
    try:
        check()
    except StorageError as error:
        return str(error)
    except Exception:  # whatever it is, it is not ready
        log.exception("a check of readiness failed")
        return "the check failed; see the service's log"
    return WELL
