"""Real servers for the tests: started on free ports of the loopback, ended by process id.

A server that cannot be had skips its tests on a laptop, with the reason, and fails them in CI.
"""

import contextlib
import getpass
import itertools
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import psycopg
import pytest
import redis

#: What a test waits for comes long before this, unless it never comes: a machine that is busy with
#: something else must not decide about a test.
PATIENCE_SECONDS = 600.0
IN_CI = os.environ.get("CI", "") not in ("", "0", "false")  # noqa: TID251 - a fact about the machine


def unavailable(what: str, remedy: str) -> None:
    """Skip the test, or fail it in CI."""
    message = f"{what} cannot be had here: {remedy}"
    if IN_CI:
        pytest.fail(message)
    pytest.skip(message)


#: Each process of the suite has ports of its own, below those that the kernel gives to outgoing
#: connections: a test that ends a server and starts it again must find its port as it left it.
PORTS = 2_000
_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "gw0")  # noqa: TID251 - a fact about the process
FIRST_PORT = 10_000 + PORTS * (int(_WORKER.removeprefix("gw")) % 11)
#: A second run of the suite beside this one begins elsewhere.
_candidates = itertools.count(os.getpid() * 131)


def free_port() -> int:
    """Return a port that nothing listens on and that this process did not return lately."""
    for number in _candidates:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port := FIRST_PORT + number % PORTS))
            return port
    raise AssertionError("there is always another")


def wait_until(
    happened: Callable[[], bool],
    *,
    seconds: float = PATIENCE_SECONDS,
    what: str = "it",
    process: "subprocess.Popen[bytes] | None" = None,
) -> None:
    """Look until `happened`; fail after `seconds`, or as soon as `process` has ended."""
    deadline = time.monotonic() + seconds
    while not happened():
        if process is not None and process.poll() is not None:
            pytest.fail(f"{what} did not happen: the process ended with {process.returncode}")
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not happen within {seconds} s")
        time.sleep(0.02)


@contextlib.contextmanager
def running(
    command: list[str], log: Path, *, env: dict[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process with its output in `log`, ended when the block ends."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=env)
        try:
            yield process
        finally:
            stop(process)


def is_running(pid: int) -> bool:
    """True if the process is there and no zombie that nobody has waited for."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def stop(process: "subprocess.Popen[bytes]", seconds: float = 60) -> int:
    """End a process politely, then not. Returns its exit status."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# ---- Postgres -----------------------------------------------------------------------


@contextlib.contextmanager
def postgres(*, durable: bool = False) -> Iterator[str]:
    """A Postgres cluster; yields the URL of its maintenance database.

    Args:
        durable: What is committed survives a power cut, which tests have no need of.
    """
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    if not programs:
        unavailable("Postgres", "install the Debian package postgresql")
    # Postgres refuses to run as root.
    user = "postgres" if getpass.getuser() == "root" else getpass.getuser()
    prefix = ["runuser", "-u", user, "--"] if getpass.getuser() == "root" else []
    # Not below pytest's folder, which every other run of pytest closes to other users.
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        folder = Path(name)
        if prefix:
            shutil.chown(folder, user, user)
        yield from _cluster(folder, prefix, programs[-1], durable=durable)


def _cluster(folder: Path, prefix: list[str], programs: Path, *, durable: bool) -> Iterator[str]:
    data, port = folder / "data", free_port()
    subprocess.run(
        [*prefix, str(programs / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust"],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd="/",
    )
    fsync = "on" if durable else "off"
    settings = [
        f"fsync={fsync}",
        "max_connections=300",
        f"port={port}",
        "listen_addresses=127.0.0.1",
    ]
    options = [word for setting in settings for word in ("-c", setting)]
    command = [
        *prefix, str(programs / "postgres"), "-D", str(data), "-k", str(folder), *options
    ]  # fmt: skip
    with running(command, folder / "postgres.log") as process:
        url = f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
        wait_until(lambda: _postgres_answers(port), what="Postgres", process=process)
        yield url


def _postgres_answers(port: int) -> bool:
    try:
        psycopg.connect(host="127.0.0.1", port=port, user="postgres", dbname="postgres").close()
    except psycopg.OperationalError:
        return False
    return True


# ---- Redis --------------------------------------------------------------------------


def three_ports() -> int:
    """Return the first of three free ports in a row, one for each worker."""
    while True:
        first, *others = (free_port() for _ in range(3))
        if others == [first + 1, first + 2]:
            return first


class Prometheus:
    """A Prometheus that scrapes targets twice a second; use inside a `with` block.

    Args:
        targets: Jobs with the ports of their processes.
        rules: Text of a file of alerts.
    """

    def __init__(self, folder: Path, targets: dict[str, list[int]], rules: str) -> None:
        program = shutil.which("prometheus")
        if program is None:
            unavailable("Prometheus", "install the Debian package prometheus")
        self._folder, self.url = folder, f"http://127.0.0.1:{(port := free_port())}"
        (folder / "alerts.yml").write_text(rules)
        interval = "500ms"
        config = {
            "global": {"scrape_interval": interval, "evaluation_interval": interval},
            "rule_files": ["alerts.yml"],
            "scrape_configs": [
                {
                    "job_name": name,
                    "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}],
                }
                for name, ports in targets.items()
            ],
        }
        (folder / "prometheus.json").write_text(json.dumps(config))  # JSON is YAML
        self._command = [
            str(program),
            f"--config.file={folder / 'prometheus.json'}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]

    def __enter__(self) -> "Prometheus":
        log = self._folder / "prometheus.log"
        self._running = running(self._command, log)
        process = self._running.__enter__()
        try:
            wait_until(self._is_ready, what="Prometheus", process=process)
        except BaseException:
            stop(process)
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self._running.__exit__(*error)

    def _is_ready(self) -> bool:
        with contextlib.suppress(httpx2.TransportError):
            return httpx2.get(f"{self.url}/-/ready").status_code == 200
        return False

    def query(self, query: str) -> list[dict[str, Any]]:
        """Results of a query, each with `metric` and `value`."""
        answer = httpx2.get(f"{self.url}/api/v1/query", params={"query": query}).json()
        assert answer["status"] == "success", (query, answer)
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def alerts(self) -> set[str]:
        """Names of the alerts that fire."""
        answer = httpx2.get(f"{self.url}/api/v1/alerts").json()
        return {
            alert["labels"]["alertname"]
            for alert in answer["data"]["alerts"]
            if alert["state"] == "firing"
        }


class RedisServer:
    """A redis-server on a free port that can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("redis-server")
        if program is None:
            unavailable("Redis", "install the Debian package redis-server")
        assert program
        self.port, self.folder = free_port(), folder
        self._command = [
            program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
            "--appendonly", "no", "--dir", str(folder), "--maxmemory-policy", "noeviction",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self, *settings: str) -> None:
        """Start it, perhaps with settings such as "--cluster-enabled", "yes"."""
        command = [*self._command, *settings]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until(lambda: accepts(self.port), what="Redis", process=self._process)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def empty(self) -> None:
        with redis.Redis(port=self.port) as client:
            client.flushall()


# ---- an S3 store: OpenStack Swift ---------------------------------------------------

SWIFT_ACCESS_KEY, SWIFT_SECRET_KEY = "test:tester", "testing"

_SWIFT_SERVER = """
[DEFAULT]
devices = {devices}
mount_check = false
bind_ip = 127.0.0.1
bind_port = {port}
workers = 1
user = {user}
swift_dir = {etc}
disable_fallocate = true
log_facility = LOG_LOCAL1
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""
_SWIFT_PROXY = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 1
user = {user}
swift_dir = {etc}
[pipeline:main]
pipeline = catch_errors cache bulk s3api tempauth slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memcached}
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin .reseller_admin
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""
_SWIFT_CONF = """
[swift-hash]
swift_hash_path_suffix = suffix
swift_hash_path_prefix = prefix
[storage-policy:0]
name = default
default = yes
"""


@contextlib.contextmanager
def swift(folder: Path) -> Iterator[str]:
    """A one-disk OpenStack Swift with its S3 interface; yields the endpoint."""
    programs = ["swift-proxy-server", "swift-ring-builder", "memcached"]
    if not all(map(shutil.which, programs)):
        unavailable(
            "Swift",
            "install swift-proxy swift-account swift-container swift-object memcached",
        )
    etc, devices, user = folder / "etc", folder / "devices", getpass.getuser()
    (devices / "sda").mkdir(parents=True)
    etc.mkdir()
    (etc / "swift.conf").write_text(_SWIFT_CONF)
    ports = {kind: free_port() for kind in ("account", "container", "object")}
    proxy, memcached = free_port(), free_port()
    for kind, port in ports.items():
        text = _SWIFT_SERVER.format(devices=devices, port=port, user=user, etc=etc, kind=kind)
        (etc / f"{kind}.conf").write_text(text)
        builder = [f"{kind}.builder"]
        for words in (
            ["create", "4", "1", "0"],
            ["add", f"r1z1-127.0.0.1:{port}/sda", "1"],
            ["rebalance"],
        ):
            subprocess.run(
                ["swift-ring-builder", *builder, *words], cwd=etc, check=True, capture_output=True
            )
    (etc / "proxy.conf").write_text(
        _SWIFT_PROXY.format(port=proxy, user=user, etc=etc, memcached=memcached)
    )
    commands = [["memcached", "-l", "127.0.0.1", "-p", str(memcached), "-u", user]]
    commands += [[f"swift-{kind}-server", str(etc / f"{kind}.conf")] for kind in ports]
    commands.append(["swift-proxy-server", str(etc / "proxy.conf")])
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(running(command, folder / "swift.log")) for command in commands
        ]
        for port in (memcached, *ports.values(), proxy):
            wait_until(lambda port=port: accepts(port), what="Swift", process=started[-1])  # type: ignore[misc]
        yield f"http://127.0.0.1:{proxy}"
