"""The service in many processes, each of which may be killed, stopped and started again."""

import contextlib
import itertools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from idefiq import Client
from tests import servers
from tests.faults.surroundings import Surroundings
from tests.faults.zygote import Process, Zygote
from tests.servers import PATIENCE_SECONDS

#: A claim takes an eighth of a second, so that something is always under way.
PACE = {
    "IDEFIQ_BATCH_ITEMS": "16",
    "IDEFIQ_ECHO_BATCH_SECONDS": "0.12",
    "IDEFIQ_MODEL": "echo",
    "IDEFIQ_INTAKE_CHILDREN": "1",
}


class World:
    """Processes of one service.

    Attributes:
        port: Of the API, whichever process serves it.
    """

    def __init__(
        self, zygote: Zygote, surroundings: Surroundings, folder: Path, **settings: str
    ) -> None:
        self._zygote, self._folder = zygote, folder
        self.surroundings = surroundings
        self.port = servers.free_port()
        self.env = {
            **os.environ,  # noqa: TID251 - of the processes
            **PACE,
            **surroundings.env,
            **{f"IDEFIQ_{name.upper()}": value for name, value in settings.items()},
            "IDEFIQ_PORT": str(self.port),
            "HF_HUB_OFFLINE": "1",
        }
        self._numbers = itertools.count()
        self.processes: list[Process] = []

    @property
    def url(self) -> str:
        """Of the API."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, role: str, name: str | None = None, **settings: str) -> Process:
        """Start one more process, under a name of its own or that of one that is gone."""
        number = next(self._numbers)
        name = name or f"{role}-{number}"
        env = {
            **self.env,
            "IDEFIQ_WORKER_NAME": name,
            **{f"IDEFIQ_{key.upper()}": value for key, value in settings.items()},
        }
        log = self._folder / f"{role}.log"
        process = self._zygote.fork(role, f"{name}#{number}", env, log)
        self.processes.append(process)
        return process

    def with_failpoint(self, role: str, place: str, action: str) -> Process:
        """Start a process in which something happens at a place."""
        return self.start(role, failpoints=json.dumps({place: action}))

    def end(self, process: Process, how: signal.Signals = signal.SIGKILL) -> int:
        """End a process and wait until it is gone. Returns its status."""
        process.send(how)
        status = self.wait(process)
        if process in self.processes:
            self.processes.remove(process)
        return status

    def wait(self, process: Process, seconds: float = PATIENCE_SECONDS) -> int:
        """The status of a process once it has ended."""
        return self._zygote.wait(process, seconds)

    def replace_dead(self) -> list[Process]:
        """Do what a supervisor does. Returns the processes that had ended."""
        dead = [one for one in self.processes if one.status is not None]
        for process in dead:
            self.processes.remove(process)
            self.start(process.role, process.name.partition("#")[0])
        return dead

    def of(self, role: str) -> list[Process]:
        """The processes of a role."""
        return [process for process in self.processes if process.role == role]

    def wait_until_ready(self) -> None:
        """Wait for the API, an intake and an engine."""
        with Client(self.url) as client:
            servers.wait_until(client.is_ready, what=f"the service at {self.url}")


@contextlib.contextmanager
def world(
    zygote: Zygote,
    surroundings: Surroundings,
    folder: Path,
    *,
    engines: int = 2,
    intakes: int = 1,
    upkeeps: int = 1,
    **settings: str,
) -> Iterator[World]:
    """A service inside the block, with so many workers; its logs are printed when it raises."""
    folder.mkdir(parents=True, exist_ok=True)
    made = World(zygote, surroundings, folder, **settings)
    try:
        made.start("api")
        for role, count in (("upkeep", upkeeps), ("intake", intakes), ("engine", engines)):
            for _ in range(count):
                made.start(role)
        if engines and intakes:
            made.wait_until_ready()
        yield made
    except BaseException:
        for log in sorted(folder.glob("*.log")):
            print(f"---- {log.name}\n{log.read_text()[-4000:]}")
        raise
    finally:
        for process in list(made.processes):
            made.end(process)
