"""Watching of jobs: requests wait without a thread, and share one query.

    Redis ──notice──▶ read the jobs of notices ─┐
                                                ├─▶ Watched ─▶ everybody who waits for the job
    every second ───▶ read all watched jobs ────┘      └─ text so far (from notices only)

Notices may be lost, and Redis may be down: then changes show at the next poll.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import redis.asyncio
import redis.exceptions
from starlette.concurrency import run_in_threadpool

from db.queue import jobs, results
from db.queue.jobs import Job
from db.sql.database import Database
from db.vocabulary.errors import StorageError
from workers.notices import channel, plain_url

#: Longest time between two polls of the database while anybody waits.
POLL_SECONDS = 1.0
#: Shortest time between two polls, however many notices come.
MIN_POLL_SECONDS = 0.03
#: Longest wait for the tasks of a service that stops.
STOP_WAIT_SECONDS = 2.0
#: Results in one page, which clients at the same result number share.
WATCHED_RESULTS = 500

log = logging.getLogger(__name__)

#: Rendered results of a job, with their numbers.
ResultsPage = list[tuple[int, bytes]]


@dataclass
class Watched:
    """A watched job as last seen; `text` is its one answer so far, if it is streamed."""

    job: Job | None = None
    text: str = ""
    watchers: int = 0
    event: asyncio.Event = field(default_factory=asyncio.Event)

    def update(self, job: Job | None = None, text: str | None = None) -> None:
        """Update, and wake everybody who waits."""
        if (job is None or job == self.job) and (text is None or text == self.text):
            return
        self.job, self.text = job or self.job, text if text is not None else self.text
        self.event.set()
        self.event = asyncio.Event()

    async def news(self, event: asyncio.Event, seconds: float) -> bool:
        """Wait until `event` is set; False after `seconds`. Read `event` before the rest."""
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            return False
        return True


class Watch:
    """Lets requests wait for changes of jobs."""

    def __init__(self, database: Database, redis_url: str) -> None:
        self._database = database
        self._redis_url = plain_url(redis_url)
        self._watched: dict[str, Watched] = {}
        self._unseen: set[str] = set()
        self._hurry = asyncio.Event()
        self._pages: dict[tuple[str, int], asyncio.Task[ResultsPage]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._subscriptions: redis.asyncio.client.PubSub | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Poll, and listen to Redis, inside the block."""
        self._tasks = [asyncio.create_task(self._look()), asyncio.create_task(self._listen())]
        try:
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            # A client of Redis that connects at this moment may swallow its cancellation.
            await asyncio.wait(self._tasks, timeout=STOP_WAIT_SECONDS)

    @contextlib.asynccontextmanager
    async def watching(self, job_id: str) -> AsyncIterator[Watched]:
        """Watch a job inside the block. The caller must have checked its owner."""
        watched = self._watched.setdefault(job_id, Watched())
        watched.watchers += 1
        try:
            if watched.watchers == 1:
                self._unseen.add(job_id)
                self._hurry.set()
                await self._subscribe(job_id)
            yield watched
        finally:
            watched.watchers -= 1
            if not watched.watchers:
                del self._watched[job_id]
                await self._subscribe(job_id, wanted=False)

    async def finished(self, job_id: str, seconds: float) -> None:
        """Return when the job has finished, or after `seconds`."""
        deadline = asyncio.get_running_loop().time() + seconds
        async with self.watching(job_id) as watched:
            while True:
                event = watched.event
                left = deadline - asyncio.get_running_loop().time()
                if (watched.job and watched.job.finished_at) or left <= 0:
                    return
                await watched.news(event, left)

    async def results(self, job_id: str, number: int) -> ResultsPage:
        """Return results after a number; requests for the same share one query."""
        key = (job_id, number)
        task = self._pages.get(key)
        if task is None:
            task = asyncio.create_task(run_in_threadpool(self._read, job_id, number))
            self._pages[key] = task
            task.add_done_callback(lambda _: self._pages.pop(key, None))
        return await asyncio.shield(task)

    def _read(self, job_id: str, number: int) -> ResultsPage:
        with self._database.snapshot() as transaction:
            page = results.finished_after(transaction, job_id, number=number, limit=WATCHED_RESULTS)
        return [(item.result_number or 0, item.line()) for item in page]

    # ---- the database -----------------------------------------------------------------

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        looked_at_all = 0.0
        while True:
            if not self._watched:
                await self._hurry.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), POLL_SECONDS)
            self._hurry.clear()
            if loop.time() - looked_at_all >= POLL_SECONDS:
                looked_at_all, job_ids = loop.time(), set(self._watched)
            else:
                job_ids = self._unseen & self._watched.keys()
            self._unseen -= job_ids
            try:
                found = await run_in_threadpool(self._jobs, job_ids)
            except StorageError as error:
                log.warning("the database is unavailable, still waiting: %s", error)
                found = []
            except Exception:  # an outermost loop: everybody would wait for ever
                log.exception("unexpected error while polling jobs; retrying")
                found = []
            for job in found:
                if job.id in self._watched:
                    self._watched[job.id].update(job)
            await asyncio.sleep(MIN_POLL_SECONDS)

    def _jobs(self, job_ids: set[str]) -> list[Job]:
        if not job_ids:
            return []
        with self._database.snapshot() as transaction:
            return jobs.several(transaction, job_ids)

    # ---- notices --------------------------------------------------------------------

    async def _subscribe(self, job_id: str, *, wanted: bool = True) -> None:
        if self._subscriptions is None:
            return  # not connected: `_listen_to` subscribes to all watched jobs when it is
        with contextlib.suppress(redis.exceptions.RedisError, OSError):
            if wanted:
                await self._subscriptions.subscribe(channel(job_id))
            else:
                await self._subscriptions.unsubscribe(channel(job_id))

    async def _listen(self) -> None:
        while True:
            client = redis.asyncio.Redis.from_url(self._redis_url, socket_connect_timeout=2)
            try:
                await self._listen_to(client)
            except (redis.exceptions.RedisError, OSError, ValueError) as error:
                log.info("no notices, polling every second: %s", type(error).__name__)
            except Exception:  # an outermost loop too
                log.exception("unexpected error while listening to Redis; retrying")
            finally:
                self._subscriptions = None
                await client.aclose()
            await asyncio.sleep(POLL_SECONDS)

    async def _listen_to(self, client: "redis.asyncio.Redis") -> None:
        async with client.pubsub(ignore_subscribe_messages=True) as subscriptions:
            # Always one subscription: without any, listening ends.
            await subscriptions.subscribe(channel("none"), *map(channel, self._watched))
            self._subscriptions = subscriptions
            async for message in subscriptions.listen():
                self._take(message["channel"].decode().rpartition(":")[2], message["data"])

    def _take(self, job_id: str, data: bytes) -> None:
        if watched := self._watched.get(job_id):
            watched.update(text=json.loads(data).get("text"))
            self._unseen.add(job_id)
            self._hurry.set()
