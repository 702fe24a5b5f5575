"""Notices: messages that a job has changed, or what its streamed answer is so far.

They travel through Redis to whoever waits, and may all be lost: those who wait also look at the
record. Of several for one job only the last is sent, which is why a text is always whole.
"""

import json
import logging
import threading

import redis
import redis.exceptions

from db.metrics import REDIS_ERRORS

#: Pause between two rounds of sending: what comes meanwhile becomes one notice.
GATHER_NOTICES_SECONDS = 0.02
#: After a failure, so that a Redis that is away is not asked all the time.
AWAY_SECONDS = 1.0

log = logging.getLogger(__name__)


def channel(job_id: str) -> str:
    """Name of the Redis channel of a job's notices."""
    return f"idefiq:job:{job_id}"


def plain_url(redis_url: str) -> str:
    """Convert a URL of Celery's form into one that Redis's client accepts."""
    return redis_url.replace("redis+socket://", "unix://")


class Notices:
    """Sends notices from a thread of its own. Never blocks and never fails."""

    def __init__(self, redis_url: str) -> None:
        self._redis = redis.Redis.from_url(
            plain_url(redis_url), socket_connect_timeout=2, socket_timeout=5
        )
        self._waiting: dict[str, str | None] = {}
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="notices", daemon=True).start()

    def changed(self, *job_ids: str) -> None:
        """Notify that items of these jobs have changed."""
        with self._changed:
            for job_id in job_ids:
                self._waiting.setdefault(job_id, None)
            self._changed.notify()

    def stream_text(self, job_id: str, text: str) -> None:
        """Send the text so far of a job's one answer."""
        with self._changed:
            self._waiting[job_id] = text
            self._changed.notify()

    def is_reachable(self) -> bool:
        """True if Redis answers."""
        try:
            return bool(self._redis.ping())
        except (redis.exceptions.RedisError, OSError):
            return False

    def _run(self) -> None:
        stop = threading.Event()  # never set: a sleep of this thread alone
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                waiting, self._waiting = self._waiting, {}
            stop.wait(GATHER_NOTICES_SECONDS if self._sent(waiting) else AWAY_SECONDS)

    def _sent(self, waiting: dict[str, str | None]) -> bool:
        pipeline = self._redis.pipeline(transaction=False)
        for job_id, text in waiting.items():
            pipeline.publish(channel(job_id), json.dumps({"text": text} if text else {}))
        try:
            pipeline.execute()
        except (redis.exceptions.RedisError, OSError) as error:
            REDIS_ERRORS.inc()
            log.info("cannot send notices, APIs will poll: %s", type(error).__name__)
            return False
        return True
