"""Commands that run the service, or administer it on the machine that it runs on.

Each but `up` replaces this process by one of the server, so this one never imports its packages.
"""

import json
import os
import subprocess
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from idefiq import server
from idefiq.cli.common import AsJson, UrlOption
from idefiq.errors import IdefiqError
from idefiq.protocol import Where

#: Arguments of another program are passed on unchanged.
_HANDED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


class WorkerRole(StrEnum):
    """Kind of a worker."""

    ENGINE = "engine"
    INTAKE = "intake"
    UPKEEP = "upkeep"


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (up, serve, worker, migrate, doctor):
        app.command()(command)
    app.command(context_settings=_HANDED_ON)(admin)


def up(
    data: Annotated[Path, typer.Option(help="Folder for jobs, images and the API key")] = Path(
        "data"
    ),
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port of the API; 0 for a free one")
    ] = 8000,
    model: Annotated[
        list[str] | None, typer.Option(help="Model to serve; may be repeated (default: demo)")
    ] = None,
    gpus: Annotated[
        str, typer.Option(help="Run an engine on each of these GPUs: all, or numbers such as 0,1")
    ] = "",
) -> None:
    """Run the whole service on this machine until Ctrl-C."""
    from idefiq.up import Stack, run_until_stopped

    numbers = _gpus(gpus) if gpus else ()
    run_until_stopped(Stack(data, port=port, models=model or None, gpus=numbers))


def serve() -> None:
    """Run the API. Settings come from the environment."""
    server.become("api", "serve")


def worker(role: Annotated[WorkerRole, typer.Argument(help="Kind of worker")]) -> None:
    """Run a worker. Settings come from the environment."""
    server.become("workers", role.value)


def migrate() -> None:
    """Migrate the database, and create the bucket if it is missing."""
    server.become("api", "migrate")


def admin(context: typer.Context) -> None:
    """Manage keys, grants and limits directly in the database."""
    server.become("api", *context.args)


def doctor(
    data: Annotated[Path | None, typer.Option(help="Folder of `idefiq up --data`")] = None,
    url: UrlOption = None,
    as_json: AsJson = False,
) -> None:
    """Check versions, devices, memory, database, Redis, store and model."""
    words = [*(["--json"] if as_json else []), "--url", Where.of(url, None).url]
    if data is not None:
        words += ["--data", str(data)]
    server.become("workers.operator.doctor", *words)


def _gpus(wanted: str) -> list[int]:
    """Parse --gpus and return the numbers of the GPUs.

    Raises:
        IdefiqError: The value is invalid, or a GPU does not exist.
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
        raise IdefiqError(f"cannot list GPUs: {found.stderr.strip()[-500:]}")
    here = [gpu["index"] for gpu in json.loads(found.stdout)]
    if not here:
        raise IdefiqError("no GPU that torch can use; run `idefiq doctor`")
    if wanted == "all":
        return here
    words = wanted.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise IdefiqError(f"--gpus {wanted!r}: expected all, or numbers such as 0,1")
    numbers = list(dict.fromkeys(map(int, words)))
    if missing := [number for number in numbers if number not in here]:
        raise IdefiqError(f"--gpus {wanted}: no GPU {missing[0]}; available: {here}")
    return numbers
