"""`python -m workers engine|intake|upkeep`: builds a worker from its settings and runs it."""

import argparse
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable

from celery.exceptions import CPendingDeprecationWarning
from prometheus_client import REGISTRY

from db import failpoints, logs, tracing
from db.blobs.opening import open_store
from db.queue import sessions
from db.queue.lease import RetryPolicy
from db.settings import CONFIG_STATUS, PRIVATE_UMASK, UNREADABLE, StorageSettings, explain
from db.sql import schema
from db.sql.database import Database
from db.vocabulary.errors import RequestError
from db.vocabulary.states import Stage
from workers.broker import INTAKE, UPKEEP, Wakes, engine_queue, make_app
from workers.lease_writer import LeaseWriter
from workers.loop import ResidentLoop
from workers.metrics import serve_metrics
from workers.notices import Notices
from workers.session import Session
from workers.settings import EngineSettings, IntakeSettings, UpkeepSettings, WorkerSettings
from workers.tasks import serve

#: Exit status when generation hangs or the device is lost; a supervisor starts another process.
BROKEN_STATUS = 70
#: Longest wait for the database before a process that hangs is ended.
MARK_SECONDS = 5.0
#: Threads of an intake share so many: each needs one for a short while.
INTAKE_CONNECTIONS = 16

log = logging.getLogger("workers")


def main() -> int:
    """Parse the kind of worker and run it."""
    parser = argparse.ArgumentParser(prog="python -m workers", description=__doc__)
    parser.add_argument("role", choices=["engine", "intake", "upkeep"])
    role = parser.parse_args().role
    logs.configure(role)
    # Celery fears pickled messages as root; only JSON is accepted here.
    warnings.filterwarnings("ignore", message="You're running the worker with superuser")
    # Celery announces a future default at each lost connection; nothing here depends on it.
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
    for talkative in (
        "celery.worker.strategy",
        "celery.app.trace",
        "celery.apps.worker",
        "alembic",
    ):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    os.umask(PRIVATE_UMASK)
    try:
        record = StorageSettings()
        worker_name = WorkerSettings().worker_name
        logs.configure(role, record.log_format, worker=worker_name)
        tracing.configure(role, record.traces_url, **{"service.instance.id": worker_name})
        failpoints.arm(record.failpoints)
        return {"engine": run_engine, "intake": run_intake, "upkeep": run_upkeep}[role](record)
    except UNREADABLE as error:
        log.critical("%s", explain(error))
        return CONFIG_STATUS
    except RequestError as error:
        log.critical("%s", error)
        return CONFIG_STATUS


def run_engine(record: StorageSettings) -> int:
    """Load a model, offer it in the database, and answer its items."""
    from workers import families
    from workers.engine.device import Device, device_thread
    from workers.engine.engine import Engine
    from workers.engine.in_flight import InFlight
    from workers.engine.schedule import Schedule

    settings = EngineSettings()
    serve_metrics(settings)
    thread = device_thread()
    family = thread.submit(families.load, settings).result()
    log.info("loaded %s (%s)", family.card.name, family.card.family)
    database = _open(record)
    in_flight, stopping = InFlight(), threading.Event()
    device = Device(
        family,
        Schedule(
            slots=family.slot_engine.count if family.slot_engine else 0,
            budget=settings.patches_at_once,
            batch_items=settings.batch_items,
        ),
        in_flight,
        stuck_seconds=settings.stuck_seconds,
        probe=lambda: families.warm_up(family),
        on_broken=lambda: os._exit(BROKEN_STATUS),
        thread=thread,
    )
    session = Session(
        record,
        worker=f"engine:{settings.model}@{settings.worker_name}",
        stage=Stage.GENERATE,
        model=settings.model,
        variant=family.card.variant,
        is_stuck=device.is_stuck,
    )
    with database.transaction() as transaction:
        sessions.offer(transaction, family.card)
    session.start()
    notices = Notices(settings.redis_url)
    engine = Engine(
        database,
        open_store(record),
        family,
        device,
        session,
        LeaseWriter(database, session, _policy(record), notices),
        notices,
        batch_items=settings.batch_items,
        loaders=settings.load_threads,
        pixels=settings.load_pixels,
        in_flight=in_flight,
        stopping=stopping,
    )
    _end_when_stuck(device.is_stuck, engine.mark_suspects)
    loop = ResidentLoop(
        engine.run_once,
        lanes=1,
        poll_seconds=settings.poll_seconds,
        name="claim",
        stopping=stopping,
    )

    def close() -> None:
        engine.close()
        session.stop()
        database.dispose()

    queue = engine_queue(settings.model)
    app = make_app(settings, queue)
    name = f"engine-{settings.model}@{settings.worker_name}".replace("/", "-")
    return serve(app, loop, queue=queue, name=name, on_stopped=close)


def run_intake(record: StorageSettings) -> int:
    """Fetch, store and check images."""
    from workers.intake.check import Checkers
    from workers.intake.fetch import Fetcher
    from workers.intake.intake import Intake
    from workers.intake.source import Sources
    from workers.intake.threads import HostTurns

    settings = IntakeSettings()
    serve_metrics(settings)
    checkers = Checkers(settings)
    database = _open(record, pool=INTAKE_CONNECTIONS)
    store = open_store(record)
    hosts = HostTurns(settings.fetch_per_host)
    fetcher = Fetcher(settings, hosts)
    app = make_app(settings, INTAKE)
    session = Session(
        record, worker=f"intake@{settings.worker_name}", stage=Stage.INTAKE, model=None
    )
    session.start()
    stopping = threading.Event()
    sources = Sources(database, store, fetcher, record, settings.max_image_bytes)
    has_room = threading.Event()
    intake = Intake(
        database,
        store,
        sources,
        checkers,
        session,
        Wakes(app),
        LeaseWriter(database, session, _policy(record), Notices(settings.redis_url)),
        threads=settings.intake_fetches,
        hosts=hosts,
        stopping=stopping,
        has_room=has_room,
    )
    loop = ResidentLoop(
        intake.run_once,
        lanes=1,
        poll_seconds=settings.poll_seconds,
        name="lane",
        stopping=stopping,
        wakes=has_room,
    )

    def close() -> None:
        intake.close()
        session.stop()
        fetcher.close()
        checkers.close()
        database.dispose()

    return serve(app, loop, queue=INTAKE, name=f"intake@{settings.worker_name}", on_stopped=close)


def run_upkeep(record: StorageSettings) -> int:
    """Import, list, settle and write results; deliver webhooks beside that."""
    from workers.upkeep.figures import QueueMetrics
    from workers.upkeep.listing import Buckets
    from workers.upkeep.upkeep import Upkeep
    from workers.upkeep.webhooks import Webhooks

    settings = UpkeepSettings()
    database = _open(record)
    REGISTRY.register(QueueMetrics(database))
    serve_metrics(settings)
    app = make_app(settings, UPKEEP)
    stopping = threading.Event()
    upkeep = Upkeep(
        database,
        open_store(record),
        Buckets(record),
        Wakes(app),
        Notices(settings.redis_url),
        settings,
        record.limits,
        stopping,
    )
    loop = ResidentLoop(
        upkeep.run_once,
        lanes=1,
        poll_seconds=settings.poll_seconds,
        name="lane",
        stopping=stopping,
    )
    webhooks = Webhooks(database, settings, stopping)
    reporting = ResidentLoop(
        webhooks.run_once,
        lanes=1,
        poll_seconds=settings.poll_seconds,
        name="webhooks",
        stopping=stopping,
    )
    reporting.start()

    def close() -> None:
        reporting.stop()
        webhooks.close()
        upkeep.close()
        database.dispose()

    name = f"upkeep@{settings.worker_name}"
    return serve(app, loop, queue=UPKEEP, name=name, on_stopped=close)


def _open(record: StorageSettings, pool: int = 0) -> Database:
    database = Database(record.database_url, pool=max(pool, record.database_pool))
    schema.migrate(database)
    return database


def _policy(record: StorageSettings) -> RetryPolicy:
    return RetryPolicy(record.max_tries, record.retry_seconds)


def _end_when_stuck(is_stuck: Callable[[], bool], mark_suspects: Callable[[], None]) -> None:
    """Run the watchdog: end the process when a generation hangs, marking its items."""

    def watch() -> None:
        while not is_stuck():
            time.sleep(1.0)
        # In a thread of its own: a slow database must not keep a hung process alive.
        mark_in_time = threading.Thread(target=mark_suspects, daemon=True)
        mark_in_time.start()
        mark_in_time.join(MARK_SECONDS)
        os._exit(BROKEN_STATUS)

    threading.Thread(target=watch, name="watchdog", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
