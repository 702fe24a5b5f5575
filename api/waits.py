"""Waiting for jobs without holding a thread or a query each: one look serves all waiters."""

import asyncio
import logging
from collections import defaultdict

from starlette.concurrency import run_in_threadpool

from db import jobs
from db.database import Database
from db.errors import StorageError

#: Time between two looks at the record while anybody waits.
LOOK_SECONDS = 0.1

log = logging.getLogger(__name__)


class Waits:
    """Lets requests wait until their job has finished."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._looking: asyncio.Task[None] | None = None

    async def finished(self, job_id: str, seconds: float) -> None:
        """Return when the job has finished, or after `seconds`."""
        event = asyncio.Event()
        self._waiting[job_id].add(event)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            pass
        finally:
            self._waiting[job_id].discard(event)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    async def _look(self) -> None:
        while self._waiting:
            try:
                done = await run_in_threadpool(self._finished, list(self._waiting))
            except StorageError as error:
                log.warning("waiting goes on: %s", error)
                done = set()
            for job_id in done:
                for event in self._waiting.get(job_id, ()):
                    event.set()
            await asyncio.sleep(LOOK_SECONDS)

    def _finished(self, job_ids: list[str]) -> set[str]:
        with self._database.snapshot() as transaction:
            return jobs.finished(transaction, job_ids)
