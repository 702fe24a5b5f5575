"""Real servers for the tests: started on free ports of the loopback, ended by process id.

A server that cannot be had skips its tests on a laptop, with the reason, and fails them in CI.
"""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis

IN_CI = os.environ.get("CI", "") not in ("", "0", "false")  # noqa: TID251 - a fact about the machine


def unavailable(what: str, remedy: str) -> None:
    """Skip the test, or fail it in CI."""
    message = f"{what} cannot be had here: {remedy}"
    if IN_CI:
        pytest.fail(message)
    pytest.skip(message)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(
    happened: Callable[[], bool],
    *,
    seconds: float = 60,
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


def stop(process: "subprocess.Popen[bytes]", seconds: float = 20) -> int:
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

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
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
