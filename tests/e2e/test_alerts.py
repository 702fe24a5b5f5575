"""Each alert of a real Prometheus fires on a fault of a real run, and clears when it is mended.

What the alerts say, and how patient they are, is in tests/deploy/alerts_test.yml.
"""

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
import psycopg
import pytest
import yaml

from idefiq import Client, IdefiqError
from idefiq.types import Item
from idefiq.up import Stack
from tests import pictures, servers
from tests.e2e.conftest import Env, Start
from tests.servers import PATIENCE_SECONDS, Prometheus, RedisServer, wait_until

ALERTS = (Path(__file__).parents[2] / "deploy" / "monitoring" / "alerts.yml").read_text()
#: The alerts as they are, but without the patience that an operator wants.
HASTY = re.sub(r"> (3600|600)$", "> 3", ALERTS, flags=re.MULTILINE)
HASTY = re.sub(r"(\[|offset )\d+m", r"\g<1>10s", re.sub(r"for: \d+m", "for: 0s", HASTY))
#: A scraped process loads nothing else while it starts: API, upkeep, intake, engine.
PROCESSES = 4


@dataclass
class Watched:
    """A running service with a Prometheus that looks at it."""

    stack: Stack
    client: Client
    prometheus: Prometheus
    folder: Path
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def ask(self, *, prompt: str = "caption en", **options: Any) -> str:
        """Submit one caption of a picture that was never seen; returns the job's id."""
        path = self.folder / f"{next(self._numbers)}.png"
        path.write_bytes(pictures.plain(size=(40, 40 + next(self._numbers))))
        [image] = self.client.upload([path])
        item: Item = {"kind": "caption", "images": [image], "prompt": prompt}
        return self.client.submit([{**item, "options": options}] if options else [item]).id

    def process(self, role: str) -> psutil.Process:
        return psutil.Process(self._started(role).pid)

    def kill(self, role: str) -> None:
        process = self._started(role)
        process.kill()
        process.wait()

    def _started(self, role: str) -> "subprocess.Popen[bytes]":
        [found] = [one.process for one in self.stack.services if one.name.startswith(role)]
        assert found
        return found

    def start_ended(self) -> None:
        def all_run() -> bool:
            self.stack.restart_ended()
            return all(one.process for one in self.stack.services)

        wait_until(all_run, what="every process")

    def fires(self, *names: str, fault: Callable[[], object] | None = None) -> None:
        """Wait until all these alerts have fired, while the fault happens again and again."""
        missing = set(names)

        def has_fired() -> bool:
            if fault is not None:
                fault()
            missing.difference_update(self.prometheus.alerts())
            return not missing

        try:
            wait_until(has_fired, what=f"{names}")
        finally:
            print("did not fire:", missing, "fires:", self.prometheus.alerts())

    def is_quiet_again(self) -> None:
        def is_quiet() -> bool:
            self.stack.restart_ended()
            return not self.prometheus.alerts()

        wait_until(is_quiet, what="a quiet service")


Watch = Callable[..., contextlib.AbstractContextManager[Watched]]


@pytest.fixture
def watch(start: Start, tmp_path: Path) -> Watch:
    """Start the service with some settings, and a Prometheus beside it that has seen it work."""

    @contextlib.contextmanager
    def watched(env: Env, **settings: str) -> Iterator[Watched]:
        first = servers.three_ports()
        hasty = {"lease_seconds": "3", "heartbeat_seconds": "0.5", "keys": "beyond-loopback"}
        settings = {"metrics_port": str(first), **hasty, **settings}
        with start("echo", env, **settings) as (stack, client):
            api = int(stack.url.rpartition(":")[2])
            targets = {"idefiq-api": [api], "idefiq-workers": [first, first + 1, first + 2]}
            with Prometheus(tmp_path, targets, HASTY) as prometheus:
                made = Watched(stack, client, prometheus, tmp_path)
                client.wait(made.ask(), seconds=PATIENCE_SECONDS)
                wait_until(lambda: len(prometheus.query("up == 1")) == PROCESSES)
                made.is_quiet_again()
                yield made

    return watched


def test_alerts_of_processes_that_end(embedded: Env, watch: Watch) -> None:
    with watch(embedded) as service:
        service.kill("intake")
        service.kill("engine")
        service.ask()
        service.fires("IdefiqDown", "IdefiqNoIntake")
        service.start_ended()
        service.kill("engine")
        service.fires("IdefiqNoEngine", "IdefiqItemsWaitLong")
        service.kill("upkeep")
        service.fires("IdefiqNoUpkeep")
        service.is_quiet_again()


def test_alerts_of_an_engine_that_is_suspended_or_out_of_memory(
    postgres_url: str, watch: Watch
) -> None:
    """On Postgres: on SQLite, an engine that is suspended within a write holds up all others."""
    env = {"IDEFIQ_DATABASE_URL": postgres_url}
    faults = {"generated": "stop:1:then suspended", "generating": "exhaust:1:too much"}
    with watch(env, failpoints=json.dumps(faults)) as service:
        service.client.wait(service.ask(prompt="too much"), seconds=PATIENCE_SECONDS)
        service.fires("IdefiqOutOfMemory")

        suspended = service.ask(prompt="then suspended")
        wait_until(lambda: service.process("engine").status() == psutil.STATUS_STOPPED)
        service.fires("IdefiqWorkersDie")
        os.kill(service.process("engine").pid, signal.SIGCONT)
        service.fires("IdefiqLeasesLost")

        assert service.client.wait(suspended, seconds=PATIENCE_SECONDS).counts.succeeded == 1
        service.is_quiet_again()


def test_alerts_of_items_that_fail_and_of_answers_with_issues(embedded: Env, watch: Watch) -> None:
    with watch(embedded) as service:
        refused: Item = {"kind": "caption", "images": ["https://localhost/refused.png"]}
        service.fires(
            "IdefiqManyItemsFail", fault=lambda: service.client.submit([dict(refused)] * 12)
        )
        service.fires(
            "IdefiqManyAnswersHaveIssues",
            fault=lambda: [service.ask(max_new_tokens=1) for _ in range(4)],
        )
        service.is_quiet_again()


def _fails(request: Callable[[], object]) -> None:
    with pytest.raises(IdefiqError):
        request()


def test_alerts_of_a_redis_and_a_store_that_fail(
    embedded: Env, watch: Watch, redis_server: RedisServer
) -> None:
    with watch({**embedded, "IDEFIQ_REDIS_URL": redis_server.url}) as service:
        blobs, away = service.stack.data / "blobs", service.stack.data / "away"
        redis_server.kill()
        service.fires("IdefiqRedisErrors")
        redis_server.start()

        blobs.rename(away)
        blobs.touch()
        service.fires("IdefiqStoreErrors", fault=lambda: _fails(service.ask))
        blobs.unlink()
        away.rename(blobs)
        service.is_quiet_again()


def test_alert_of_webhook_deliveries_that_stay_behind(embedded: Env, watch: Watch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        ports, networks = f"[{port}]", '["127.0.0.0/8"]'
        with watch(embedded, webhook_ports=ports, webhook_networks=networks) as service:
            hook = {"url": f"http://127.0.0.1:{port}/never-answers"}
            made = httpx2.post(f"{service.stack.url}/v1/webhooks", json=hook).raise_for_status()
            for _ in range(8):
                service.ask()
            service.fires("IdefiqDeliveriesLate")

            at = f"{service.stack.url}/v1/webhooks/{made.json()['id']}"
            httpx2.delete(at).raise_for_status()
            service.is_quiet_again()


def test_alerts_of_a_database_that_fails(postgres_url: str, embedded: Env, watch: Watch) -> None:
    url = postgres_url.replace("+psycopg", "")
    server, _, name = url.rpartition("/")
    env = {**embedded, "IDEFIQ_DATABASE_URL": postgres_url, "IDEFIQ_DATABASE_POOL": "2"}
    with (
        watch(env) as service,
        psycopg.connect(f"{server}/postgres", autocommit=True) as operator,
    ):
        with psycopg.connect(url) as careless:
            careless.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
            with ThreadPoolExecutor(8) as clients:
                listed = f"{service.stack.url}/v1/jobs"
                waiting = [clients.submit(httpx2.get, listed, timeout=None) for _ in range(8)]
                service.fires("IdefiqConnectionsExhausted")
                careless.rollback()
                statuses = {answer.result().status_code for answer in waiting}
                assert 503 in statuses <= {200, 503}

            careless.execute("ALTER TABLE usage RENAME TO misplaced")
            careless.commit()
            usage = f"{service.stack.url}/v1/usage"
            service.fires("IdefiqServerErrors", fault=lambda: httpx2.get(usage))
            careless.execute("ALTER TABLE misplaced RENAME TO usage")
            careless.commit()

        operator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        operator.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        )
        service.fires("IdefiqDatabaseUnavailable", "IdefiqDatabaseErrors")
        operator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
        service.is_quiet_again()
        service.client.wait(service.ask(), seconds=PATIENCE_SECONDS)


def test_each_alert_is_tried() -> None:
    tried = set(re.findall(r'"(Idefiq\w+)"', Path(__file__).read_text()))
    [group] = yaml.safe_load(ALERTS)["groups"]

    assert tried == {rule["alert"] for rule in group["rules"]}
