"""The `idefiq` command.

`runs` has the commands that ask about many images, `alt` and `review` those for alternative text,
`jobs` those for jobs, and `serve` those that run the service.
"""

import importlib.metadata
import sys
from typing import Annotated

import typer

from idefiq.cli import alt, jobs, keys, models, review, runs, serve, top, usage
from idefiq.cli.common import errors, shown
from idefiq.errors import IdefiqError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"idefiq {importlib.metadata.version('idefiq')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version")
    ] = False,
) -> None:
    """Caption many images and ask questions about them, with a service of your own.

    Exit status: 0 for success, 1 if something failed or was found, 2 for errors of the command or
    the service.
    """


runs.add_to(app)
alt.add_to(app)
review.add_to(app)
jobs.add_to(app)
usage.add_to(app)
top.add_to(app)
serve.add_to(app)
app.add_typer(models.app, name="models")
app.add_typer(keys.app, name="keys")


def main() -> None:
    """Run the command. Errors are one line on standard error."""
    try:
        app()
    except (IdefiqError, OSError) as error:
        errors.print(shown(f"error: {error}"), style="red")
        sys.exit(2)
