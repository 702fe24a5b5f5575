"""`idefiq models`: list the models of the service, and download checkpoints."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from idefiq import server
from idefiq.cli.common import ApiKeyOption, AsJson, UrlOption, print_json
from idefiq.client import Client

app = typer.Typer(invoke_without_command=True)


@app.callback()
def models(
    context: typer.Context,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
    as_json: AsJson = False,
) -> None:
    """List the models of the service, or download one with `pull`."""
    if context.invoked_subcommand:
        return
    table = Table("model", "state", "kinds", "license", "note", box=None)
    with Client(url, api_key) as client:
        found = client.models()
    for model in found:
        if as_json:
            # `licence` is its name in release 0.1.
            print_json({**asdict(model), "licence": model.license})
        state = "ready" if model.ready else "offline"
        table.add_row(model.name, state, ", ".join(model.kinds), model.license, model.note)
    if not as_json:
        Console(markup=False).print(table)


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="Name on the model hub, such as team/model")],
    revision: Annotated[str, typer.Option(help="Commit, branch or tag (default: main)")] = "",
) -> None:
    """Download a checkpoint to this machine. Resumes an interrupted download."""
    words = ["--revision", revision] if revision else []
    server.become("workers.operator.pull", name, *words)
