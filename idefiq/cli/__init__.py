"""The `idefiq` command.

`runs` asks about many images, `alt` about those of a site and `review` about the drafts; `jobs`
looks after what was asked, and `serve` runs the service itself.
"""

import importlib.metadata
import sys
from typing import Annotated

import typer

from idefiq.cli import alt, jobs, keys, lint, models, review, runs, serve
from idefiq.cli.common import errors, shown
from idefiq.types import IdefiqError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"idefiq {importlib.metadata.version('idefiq')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which this is")
    ] = False,
) -> None:
    """Captions and answers for many images, from a service of your own."""


runs.add_to(app)
alt.add_to(app)
lint.add_to(app)
review.add_to(app)
jobs.add_to(app)
serve.add_to(app)
app.add_typer(models.app, name="models")
app.add_typer(keys.app, name="keys")


def main() -> None:
    """Run the command; what goes wrong is one line on standard error."""
    try:
        app()
    except (IdefiqError, OSError) as error:
        errors.print(shown(f"error: {error}"), style="red")
        sys.exit(2)
