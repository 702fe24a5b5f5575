"""Delivery of webhooks, signed as Standard Webhooks says, at least once each.

An owner has few deliveries under way at a time, so receivers that hang keep nobody else waiting.

due ─▶ body from the database ─▶ signed ─▶ POST to a public address ─▶ 2xx: delivered
                                                                  ─▶ 410: the webhook is disabled
                                                                  ─▶ else: again, later and later
"""

import base64
import hashlib
import hmac
import json
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpcore2

from db.queue import jobs
from db.sql.database import Database
from db.vocabulary.states import JobState
from db.webhooks import endpoints, outbox
from db.webhooks.endpoints import Webhook
from db.webhooks.outbox import Delivery
from workers import network
from workers.addresses import Refused, checked
from workers.network import Resolver, TooSlow, resolve
from workers.settings import UpkeepSettings

#: Longest time between two looks for due deliveries, while some are under way.
REFILL_SECONDS = 0.5
#: Deliveries that are under way at once; see outbox.OF_OWNER.
PARALLEL = 8

log = logging.getLogger(__name__)


def sign(secret: str, delivery_id: str, timestamp: int, body: bytes) -> str:
    """Return one signature of https://www.standardwebhooks.com: v1, HMAC-SHA256, base64."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{delivery_id}.{timestamp}.".encode() + body
    return f"v1,{base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()}"


@dataclass(frozen=True, slots=True)
class DeliveryOutcome:
    """Outcome of an attempt; `wait_seconds` is what the receiver asked for."""

    status: int | None
    problem: str | None = None
    wait_seconds: float = 0.0


class Webhooks:
    """Delivers what is due; a resident loop calls `run_once`.

    Args:
        stopping: Set when nothing is to be started any more.
        resolver: Name and port to addresses; the system's unless a test scripts it.
    """

    def __init__(
        self,
        database: Database,
        settings: UpkeepSettings,
        stopping: threading.Event,
        resolver: Resolver = resolve,
    ) -> None:
        self._database, self._settings, self._stopping = database, settings, stopping
        self._deadline = network.Deadline()
        self._pool = network.pool(
            settings.webhook_networks, self._deadline, most=PARALLEL, resolver=resolver
        )
        self._threads = ThreadPoolExecutor(PARALLEL, thread_name_prefix="webhook")
        self._running: dict[Future[DeliveryOutcome], tuple[Delivery, Webhook]] = {}

    def run_once(self) -> bool:
        """Attempt deliveries until none is due. Returns True if there were any."""
        were_any = False
        while (not self._stopping.is_set() and self._start_due()) or self._running:
            were_any = True
            ended, _ = wait(self._running, timeout=REFILL_SECONDS, return_when=FIRST_COMPLETED)
            for future in ended:
                self._note(*self._running.pop(future), future.result())
        return were_any

    def _start_due(self) -> bool:
        """Start due deliveries as far as threads are free. Returns True if there were any."""
        if len(self._running) >= PARALLEL:
            return True
        by_owner = Counter(delivery.owner_id for delivery, _ in self._running.values())
        with self._database.transaction() as transaction:
            taken = outbox.take_due(transaction, PARALLEL - len(self._running), by_owner)
        bodies = self._bodies([delivery for delivery, _ in taken])
        for delivery, webhook in taken:
            future = self._threads.submit(self._try, delivery, webhook, bodies[delivery.id])
            self._running[future] = (delivery, webhook)
        return bool(taken)

    def close(self) -> None:
        """Let running attempts finish, and close all connections."""
        self._threads.shutdown()
        self._pool.close()

    def _bodies(self, taken: Sequence[Delivery]) -> dict[str, bytes | None]:
        """Body of each delivery; None if its subject was deleted since."""
        of_jobs = [one.subject for one in taken if one.event.startswith("job.")]
        with self._database.snapshot() as transaction:
            found = {job.id: job for job in jobs.several(transaction, of_jobs)}
        return {one.id: _encoded(_body(one, found.get(one.subject))) for one in taken}

    def _try(self, delivery: Delivery, webhook: Webhook, body: bytes | None) -> DeliveryOutcome:
        if body is None:
            return DeliveryOutcome(None, f"{delivery.subject} was deleted")
        timestamp = int(time.time())
        secrets = [webhook.secret]
        if webhook.former_secret and _is_ahead(webhook.former_until):
            secrets.append(webhook.former_secret)
        signatures = " ".join(sign(one, delivery.id, timestamp, body) for one in secrets)
        headers = [
            ("Content-Type", "application/json"),
            ("User-Agent", "idefiq/0.1 (webhooks)"),
            ("webhook-id", delivery.id),
            ("webhook-timestamp", str(timestamp)),
            ("webhook-signature", signatures),
        ]
        seconds = self._settings.webhook_seconds
        self._deadline.at = time.monotonic() + seconds
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), seconds)
        try:
            url, _ = checked(webhook.url, self._settings.webhook_ports)
            with self._pool.stream(
                "POST", url, headers=headers, content=body, extensions={"timeout": timeouts}
            ) as response:
                return _outcome(response)
        except Refused as error:
            return DeliveryOutcome(None, str(error))
        except (TooSlow, httpcore2.TimeoutException):
            return DeliveryOutcome(None, f"no answer within {seconds:g} s")
        except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
            return DeliveryOutcome(None, f"the connection failed: {type(error).__name__}")
        except Exception:  # one receiver may not keep the others from being told
            log.exception("%s could not be delivered", delivery.id)
            return DeliveryOutcome(None, "internal error in the delivery")

    def _note(self, delivery: Delivery, webhook: Webhook, outcome: DeliveryOutcome) -> None:
        with self._database.transaction() as transaction:
            if outcome.problem is None and outcome.status is not None:
                outbox.delivered(transaction, delivery.id, outcome.status)
                return
            if outcome.status == 410:
                endpoints.gone(transaction, webhook)
            outbox.failed(
                transaction,
                delivery,
                outcome.status,
                outcome.problem or "",
                jitter=random.uniform(0.8, 1.2),  # noqa: S311 - no secret
                wait_seconds=outcome.wait_seconds,
            )
        log.info("%s: attempt %d: %s", delivery.id, delivery.attempts, outcome.problem)


def _outcome(response: httpcore2.Response) -> DeliveryOutcome:
    if 200 <= response.status < 300:
        return DeliveryOutcome(response.status)
    fields = {name.lower(): value for name, value in response.headers}
    retry_after = fields.get(b"retry-after", b"").decode("latin-1")
    wait = float(retry_after) if retry_after.isdecimal() and len(retry_after) < 9 else 0.0
    return DeliveryOutcome(response.status, f"the receiver answered {response.status}", wait)


def _is_ahead(moment: datetime | None) -> bool:
    return moment is not None and moment > datetime.now(UTC)


def _encoded(body: dict[str, Any] | None) -> bytes | None:
    return None if body is None else json.dumps(body, separators=(",", ":")).encode()


def _body(delivery: Delivery, job: jobs.Job | None) -> dict[str, Any] | None:
    """Build a body: only what has happened; everything else is requested with a key."""
    if delivery.event.startswith("batch."):  # as OpenAI's clients read it
        return {
            "id": f"evt_{delivery.id}",
            "object": "event",
            "type": delivery.event,
            "created_at": int(delivery.created_at.timestamp()),
            "data": {"id": delivery.subject},
        }
    if job is None:
        return None
    states = ("total", "succeeded", "failed", "cancelled")
    is_pause = delivery.event == "job.paused"  # it may have been resumed since
    return {
        "type": delivery.event,
        "timestamp": delivery.created_at.isoformat(),
        "data": {
            "id": job.id,
            "name": job.name,
            "state": (JobState.PAUSED if is_pause else job.state).value,
            "pause_reason": job.pause_reason if is_pause else None,
            "counts": {state: getattr(job, state) for state in states},
            "answers_with_issues": job.answers_with_issues,
        },
    }
