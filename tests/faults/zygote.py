"""Real processes of the service, forked from one that has imported everything already.

What runs in them is what `python -m workers` and `python -m api` run; only the seconds of
importing are saved, so that thousands of kills are affordable.
"""

import contextlib
import importlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: What children find imported.
PRELOADED = (
    "workers.__main__",
    "workers.engine.device",
    "workers.engine.engine",
    "workers.families.echo",
    "workers.intake.check",
    "workers.intake.fetch",
    "workers.intake.intake",
    "workers.upkeep.upkeep",
)


@dataclass
class Process:
    """A process of the service; `status` is that of waitpid once it has ended."""

    role: str
    name: str
    pid: int
    log: Path
    began: float = field(default_factory=time.monotonic)
    status: int | None = None

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if the process is still there."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Zygote:
    """Forks processes on request and knows which have ended."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._asked = threading.Lock()
        self._answers: dict[str, int] = {}
        self._ended: dict[int, int] = {}
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._processes: dict[int, Process] = {}

    def fork(self, role: str, name: str, env: Mapping[str, str], log: Path) -> Process:
        """Start a process: engine, intake, upkeep or api."""
        with self._asked:
            asked = {"id": name, "role": role, "env": dict(env), "log": str(log)}
            assert self._server.stdin
            self._server.stdin.write(json.dumps(asked) + "\n")
            self._server.stdin.flush()
            with self._news:
                assert self._news.wait_for(lambda: name in self._answers, 60)
                pid = self._answers.pop(name)
                process = Process(role, name, pid, log, status=self._ended.pop(pid, None))
                self._processes[pid] = process
        return process

    def wait(self, process: Process, seconds: float) -> int:
        """The status of a process once it has ended."""
        with self._news:
            assert self._news.wait_for(lambda: process.status is not None, seconds), (
                f"{process.name} has not ended"
            )
        assert process.status is not None
        return process.status

    def close(self) -> None:
        """End every process, then the one they come from."""
        for process in list(self._processes.values()):
            process.send(signal.SIGKILL)
        assert self._server.stdin
        self._server.stdin.close()
        self._server.wait(30)
        self._reader.join(10)
        assert self._server.stdout
        self._server.stdout.close()

    def _read(self) -> None:
        assert self._server.stdout
        for line in self._server.stdout:
            told = json.loads(line)
            with self._news:
                if "ended" in told:
                    process = self._processes.pop(told["ended"], None)
                    if process:
                        process.status = told["status"]
                    else:
                        self._ended[told["ended"]] = told["status"]
                else:
                    self._answers[told["id"]] = told["pid"]
                self._news.notify_all()


@contextlib.contextmanager
def running() -> Iterator[Zygote]:
    """A zygote inside the block."""
    zygote = Zygote()
    try:
        yield zygote
    finally:
        zygote.close()


# ---- inside -------------------------------------------------------------------------


def _serve() -> None:
    for name in PRELOADED:
        importlib.import_module(name)

    pending = b""
    while True:
        ready, _, _ = select.select([0], [], [], 0.02)
        if ready:
            data = os.read(0, 65536)
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                _fork(json.loads(line))
        _reap()


def _fork(asked: dict[str, Any]) -> None:
    pid = os.fork()
    if pid:
        print(json.dumps({"id": asked["id"], "pid": pid}), flush=True)
        return
    status = 1
    try:
        log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.clear()  # noqa: TID251 - the child's own
        os.environ.update(asked["env"])  # noqa: TID251 - the child's own
        random.seed()
        status = _run(asked["role"])
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def _run(role: str) -> int:
    if role == "api":
        from api.__main__ import serve

        serve()
        return 0
    from workers.__main__ import main

    sys.argv = ["workers", role]
    return main()


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            print(json.dumps({"ended": pid, "status": status}), flush=True)


if __name__ == "__main__":
    _serve()
