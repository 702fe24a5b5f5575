"""Wakes: messages that a queue has work, sent through Celery and Redis.

The items themselves never travel: Celery pops a message first and notes it second, so a killed
worker can lose it. With the queue in SQL a lost wake is a delay of one poll, and a doubled one
is harmless. So a wake is sent beside the caller's path, once, and never again.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import kombu.exceptions
import kombu.transport
import kombu.transport.redis
import redis.exceptions
from celery import Celery
from kombu import Queue

from db.metrics import REDIS_ERRORS
from workers.settings import BrokerSettings

INTAKE, UPKEEP = "intake", "upkeep"
WAKE = "idefiq.wake"
#: Pause between two rounds of sending: what comes meanwhile becomes one wake.
GATHER_WAKES_SECONDS = 0.02
#: Pause after an error of Redis, so that it is not asked in a hot loop.
ERROR_PAUSE_SECONDS = 2.0

log = logging.getLogger(__name__)


def engine_queue(model: str) -> str:
    """Name of the queue of a model's engines."""
    return f"engine.{model}"


class WakeChannel(kombu.transport.redis.Channel):  # type: ignore[misc]  # kombu has no types
    """Kombu's Redis channel, which survives invalid messages and errors of Redis.

    Whoever can write to Redis can put anything into a queue; kombu lets the worker end with the
    exception of its parser. It also lets it end when Redis answers an error: a replica that
    refuses writes after a failover, full memory, a key of a wrong type. Here that is a lost
    connection, which Celery makes anew, perhaps to a Redis that is well.

    Each failure is counted once, whoever meets it: a worker that listens, or whoever sends a wake.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        with _counted():
            super().__init__(*arguments, **named)

    def _put(self, *arguments: Any, **named: Any) -> None:
        with _counted():
            super()._put(*arguments, **named)

    def _queue_bind(self, *arguments: Any, **named: Any) -> None:
        with _counted(), _errors_as_lost_connection():
            super()._queue_bind(*arguments, **named)

    def _size(self, queue: str) -> int:
        with _counted(), _errors_as_lost_connection():
            return int(super()._size(queue))

    def _brpop_read(self, **options: Any) -> bool:
        try:
            with _counted(), _errors_as_lost_connection():
                return bool(super()._brpop_read(**options))
        except self.connection_errors:
            raise
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            log.warning("dropped an invalid wake: %s", type(error).__name__)
            return True


@contextmanager
def _counted() -> Iterator[None]:
    try:
        yield
    except (redis.exceptions.RedisError, OSError):
        REDIS_ERRORS.inc()
        raise


@contextmanager
def _errors_as_lost_connection() -> Iterator[None]:
    """Pause, then raise a lost connection, if Redis answers an error inside the block."""
    try:
        yield
    except (redis.exceptions.ResponseError, redis.exceptions.InvalidResponse) as error:
        log.warning(
            "Redis answered %s: %s; workers poll until it recovers", type(error).__name__, error
        )
        # Nothing but wakes waits in this thread, and polling does not.
        time.sleep(ERROR_PAUSE_SECONDS)
        raise redis.exceptions.ConnectionError(str(error)) from error


class WakeTransport(kombu.transport.redis.Transport):  # type: ignore[misc]
    """Kombu's Redis transport with that channel."""

    Channel = WakeChannel


def make_app(settings: BrokerSettings, queue: str | None = None) -> Celery:
    """Build the Celery application, which consumes `queue` if it is a worker's.

    Each transport option answers a failure that was met: without `max_retries: 0` a publish
    blocks for 2 s while Redis is away; with acknowledgements kept in Redis a worker goes deaf
    after a reconnect.
    """
    for scheme in ("redis", "rediss"):
        kombu.transport.TRANSPORT_ALIASES[scheme] = f"{__name__}:{WakeTransport.__name__}"
    app = Celery("idefiq", broker=settings.redis_url, set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        result_backend=None,
        task_serializer="json",
        accept_content=["json"],
        task_acks_late=False,
        task_queues=[Queue(queue, routing_key=queue, no_ack=True)] if queue else None,
        task_create_missing_queues=True,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        broker_connection_timeout=2,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        task_publish_retry=False,
        broker_transport_options={
            "socket_connect_timeout": 2,
            "socket_timeout": 30,
            "socket_keepalive": True,
            "max_retries": 0,
            "ack_emulation": False,
        },
    )
    return app


class Wakes:
    """Sends wakes from a thread of its own; several for one queue become one.

    Args:
        app: From make_app.
    """

    #: A wake that waited longer than this says nothing new: workers poll more often.
    EXPIRES_SECONDS = 60

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._waiting: set[str] = set()
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="wakes", daemon=True).start()

    def wake(self, *queues: str) -> None:
        """Wake the workers of queues soon. Never blocks and never fails."""
        with self._changed:
            self._waiting.update(queues)
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                queues, self._waiting = self._waiting, set()
            for queue in queues:
                self._send(queue)
            time.sleep(GATHER_WAKES_SECONDS)

    def _send(self, queue: str) -> None:
        try:
            self._app.send_task(WAKE, queue=queue, retry=False, expires=self.EXPIRES_SECONDS)
        except (kombu.exceptions.OperationalError, redis.exceptions.RedisError, OSError) as error:
            log.info("cannot wake %s, its workers will poll: %s", queue, type(error).__name__)
