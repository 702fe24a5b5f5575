"""Commands that run the service, or look after it on the machine that it runs on.

Each but `up` becomes a process of the server, so that this one never imports any of it.
"""

import json
import os
import subprocess
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from idefiq import server
from idefiq.cli.common import UrlOption
from idefiq.protocol import Where
from idefiq.types import IdefiqError

#: Arguments of another program are handed on as they are.
_HANDED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


class WorkerRole(StrEnum):
    """What a worker does."""

    ENGINE = "engine"
    INTAKE = "intake"
    UPKEEP = "upkeep"


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (up, serve, worker, migrate, doctor):
        app.command()(command)
    app.command(context_settings=_HANDED_ON)(admin)


def up(
    data: Annotated[Path, typer.Option(help="Where jobs, images and the key are kept")] = Path(
        "data"
    ),
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port of the API; 0 picks a free one")
    ] = 8000,
    model: Annotated[list[str] | None, typer.Option(help="Model to serve; may be repeated")] = None,
    gpus: Annotated[
        str, typer.Option(help="Run an engine on each of these GPUs: all, or numbers such as 0,1")
    ] = "",
) -> None:
    """Run the whole service on this machine until Ctrl-C."""
    from idefiq.up import Stack, run_until_stopped

    numbers = _gpus(gpus) if gpus else ()
    run_until_stopped(Stack(data, port=port, models=model or None, gpus=numbers))


def serve() -> None:
    """Run the API alone; workers run elsewhere. Settings come from the environment."""
    server.become("api", "serve")


def worker(role: Annotated[WorkerRole, typer.Argument(help="What the worker does")]) -> None:
    """Run one worker. Settings come from the environment."""
    server.become("workers", role.value)


def migrate() -> None:
    """Bring the database up to date, and make the bucket if there is none."""
    server.become("api", "migrate")


def admin(context: typer.Context) -> None:
    """Manage keys, grants and limits in the database itself: `idefiq admin --help` lists how."""
    server.become("api", *context.args)


def doctor(
    data: Annotated[
        Path | None, typer.Option(help="Folder of `idefiq up --data`, if that runs the service")
    ] = None,
    url: UrlOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs")] = False,
) -> None:
    """Check versions, devices, memory, database, Redis, store and model, and say what to do."""
    words = [*(["--json"] if as_json else []), "--url", Where.of(url, None).url]
    if data is not None:
        words += ["--data", str(data)]
    server.become("workers.operator.doctor", *words)


def _gpus(wanted: str) -> list[int]:
    """The numbers of GPUs that are here and wanted.

    Raises:
        IdefiqError: Some are not here, or it is no list of numbers.
    """
    server.check_installed("workers")
    found = subprocess.run(
        server.command("workers.operator.devices"),
        env=server.environment(os.environ),  # noqa: TID251 - handed on to the process
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        raise IdefiqError(f"GPUs cannot be looked for: {found.stderr.strip()[-500:]}")
    here = [gpu["index"] for gpu in json.loads(found.stdout)]
    if not here:
        raise IdefiqError("there is no GPU that torch can use; `idefiq doctor` says why")
    if wanted == "all":
        return here
    words = wanted.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise IdefiqError(f"--gpus {wanted!r}: say all, or numbers such as 0,1")
    numbers = list(dict.fromkeys(map(int, words)))
    if missing := [number for number in numbers if number not in here]:
        raise IdefiqError(f"--gpus {wanted}: there is no GPU {missing[0]}; there are {here}")
    return numbers
