"""A worker's session: its heartbeat, and whether its leases still hold.

The heartbeat has a thread and a database connection of its own, so that neither a busy lane nor
an exhausted pool can silence it. What can: a process that is stopped, and `is_stuck`.
"""

import logging
import threading
import time
from collections.abc import Callable

from db.queue import rescues, sessions
from db.settings import StorageSettings
from db.sql.database import Database
from db.vocabulary.errors import StorageError
from db.vocabulary.states import Stage
from workers.metrics import ITEMS_RESCUED, SESSIONS_LOST

log = logging.getLogger(__name__)


class Session:
    """Opens a session at the start, keeps it alive, and opens a new one if it was lost.

    Args:
        record: Settings of the database; a connection of its own is made from them.
        worker: The worker's name, its own among all workers.
        stage: What it claims.
        model: The engine's model, None for intake.
        variant: Its variant, "" if that is not known; see ModelInfo.variant.
        is_stuck: Asked before each heartbeat; True withholds it.
    """

    def __init__(
        self,
        record: StorageSettings,
        *,
        worker: str,
        stage: Stage,
        model: str | None,
        variant: str = "",
        is_stuck: Callable[[], bool] = lambda: False,
    ) -> None:
        self._database = Database(record.database_url, pool=1)
        self._settings = record
        self._worker, self.stage, self._model, self._variant = worker, stage, model, variant
        self._is_stuck = is_stuck
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._hurry = threading.Event()
        self._id = self._abandoned = ""
        self.safe_until = 0.0

    @property
    def id(self) -> str:
        """Id of the session to claim with."""
        return self._id

    def start(self) -> None:
        """Open the session, waiting for the database if needed, and start the heartbeat."""
        while not self._id and not self._stopping.is_set():
            try:
                self._open()
            except StorageError as error:
                log.warning("%s; waiting", error)
                self._stopping.wait(1.0)
        self._thread.start()

    def holds(self, session_id: str) -> bool:
        """True if leases claimed under `session_id` cannot have expired yet.

        Judged by this process's monotonic clock, counted from before the last heartbeat was
        sent, so it turns False before the database's clock lets anybody else in.
        """
        return session_id == self._id and time.monotonic() < self.safe_until

    def abandon(self, session_id: str) -> None:
        """Give up a session with all its leases; a new one is opened soon.

        Call this when it is unknown what is leased: a commit of a claim was not answered, a write
        failed, or an unexpected error happened. The items are rescued.
        """
        if session_id == self._id:
            SESSIONS_LOST.inc()
            self.safe_until = 0.0
            self._abandoned = session_id
            self._hurry.set()

    def stop(self) -> None:
        """End the session. Must be called when nothing is leased any more."""
        self._stopping.set()
        self._hurry.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            with self._database.transaction() as transaction:
                sessions.end(transaction, self._id)
        except StorageError as error:
            log.warning("cannot end the session, it will expire: %s", error)
        self._database.dispose()

    def _open(self) -> None:
        before = time.monotonic()
        with self._database.transaction() as transaction:
            self._id = sessions.start(
                transaction,
                worker=self._worker,
                stage=self.stage,
                model=self._model,
                variant=self._variant,
                lease_seconds=self._settings.lease_seconds,
            )
        self.safe_until = before + self._settings.lease_seconds

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._hurry.wait(self._settings.heartbeat_seconds)
            self._hurry.clear()
            if self._stopping.is_set():
                return
            try:
                self._beat()
            except StorageError as error:
                log.warning("no heartbeat: %s", error)
            except Exception:  # without its heartbeat a worker would look healthy and do nothing
                log.exception("no heartbeat")

    def _beat(self) -> None:
        if self._abandoned == self._id:
            self._open()
            return
        if self._is_stuck():
            log.error("the device makes no progress; no heartbeat is sent")
            return
        before = time.monotonic()
        with self._database.transaction() as transaction:
            alive = sessions.heartbeat(transaction, self._id, self._settings.lease_seconds)
        if not alive:
            SESSIONS_LOST.inc()
            log.warning("session %s has expired; other workers have its items now", self._id)
            self._open()
        elif self._abandoned != self._id:
            self.safe_until = before + self._settings.lease_seconds
        with self._database.transaction() as transaction:
            sessions.shorten(transaction, self._settings.lease_seconds)
            rescued = rescues.rescue(transaction)
        if rescued:
            ITEMS_RESCUED.inc(rescued)
            log.info("rescued %d items of dead sessions", rescued)
