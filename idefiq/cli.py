"""The `idefiq` command."""

import importlib.metadata
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

from idefiq import batch
from idefiq.client import Client
from idefiq.protocol import DEFAULT_URL
from idefiq.types import IdefiqError, Job

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Url = Annotated[
    str | None,
    typer.Option(help=f"Where the service is; IDEFIQ_URL, or {DEFAULT_URL}, if not said"),
]
Key = Annotated[str | None, typer.Option(help="API key; IDEFIQ_API_KEY if not said")]
Paths = Annotated[list[Path], typer.Argument(help="Images, and folders of them")]
ModelName = Annotated[str | None, typer.Option(help="Which model; not needed if there is one")]
Out = Annotated[
    Path | None,
    typer.Option(help="FILE.jsonl, .csv or .txt; else a line each on standard output"),
]
ResultsOut = Annotated[
    Path | None, typer.Option(help="FILE.jsonl, .csv or .txt; else JSON lines on standard output")
]

errors = Console(stderr=True, highlight=False)


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


@app.command()
def caption(
    paths: Paths,
    prompt: Annotated[str | None, typer.Option(help="What to say instead of the default")] = None,
    model: ModelName = None,
    out: Out = None,
    url: Url = None,
    api_key: Key = None,
) -> None:
    """Caption images."""
    request: dict[str, Any] = {"kind": "caption"}
    if prompt:
        request["prompt"] = prompt
    _run(paths, request, model, out, Client(url, api_key))


@app.command()
def ask(
    question: str,
    paths: Paths,
    model: ModelName = None,
    out: Out = None,
    url: Url = None,
    api_key: Key = None,
) -> None:
    """Ask one question about every image."""
    _run(paths, {"kind": "vqa", "question": question}, model, out, Client(url, api_key))


def _run(
    paths: list[Path],
    request: dict[str, Any],
    model: str | None,
    out: Path | None,
    client: Client,
) -> None:
    form = _form(out, "txt")
    found = batch.find_images(paths)
    if not found:
        named = ", ".join(map(str, paths))
        raise IdefiqError(f"no images in {named}: looked for {' '.join(sorted(batch.SUFFIXES))}")
    with client:
        if model and model not in (known := [known.name for known in client.models()]):
            raise IdefiqError(f"there is no model {model!r}; known models: {', '.join(known)}")
        with _progress() as report:
            outcomes = batch.run(client, found, request=request, model=model, report=report)
    _write(outcomes, out, form)
    failed = [one for one in outcomes if one.error]
    for one in failed:
        errors.print(f"failed: {one.path}: {one.error}", style="red", markup=False)
    if failed:
        errors.print(f"{len(failed)} of {len(outcomes)} failed")
        raise typer.Exit(1)


def _form(out: Path | None, default: str) -> str:
    """The form of the output, by its name; refused before any work is done."""
    form = out.suffix.lstrip(".") if out else default
    if form not in ("jsonl", "csv", "txt"):
        raise IdefiqError(f"{str(out)!r}: write to a .jsonl, .csv or .txt file")
    if out and not out.parent.is_dir():
        raise IdefiqError(f"{str(out)!r}: there is no folder {str(out.parent)!r}")
    return form


def _write(outcomes: list[batch.Outcome], out: Path | None, form: str) -> None:
    if out is None:
        batch.write(outcomes, sys.stdout, form)
        return
    with out.open("w", encoding="utf-8", newline="") as file:
        batch.write(outcomes, file, form)


@contextmanager
def _progress() -> Iterator[batch.Report]:
    """A bar on standard error with rate and time left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors) as progress:
        bars: dict[str, Any] = {}

        def report(step: str, done: int, total: int, job: Job | None) -> None:
            if step not in bars:
                bars[step] = progress.add_task(step, total=total, rate="")
            if job and "job" not in bars:
                bars["job"] = job.id
                progress.console.print(f"job {job.id}")
            rate = f"{job.items_per_second:.1f}/s" if job and job.items_per_second else ""
            progress.update(bars[step], completed=done, rate=rate)

        try:
            yield report
        except KeyboardInterrupt:
            if job_id := bars.get("job"):
                progress.console.print(
                    f"the job goes on: `idefiq results {job_id}` shows its answers,"
                    f" `idefiq cancel {job_id}` stops it"
                )
            raise


@app.command()
def jobs(url: Url = None, api_key: Key = None, limit: int = 20) -> None:
    """List jobs, newest first."""
    fixed = ("job", "state", "answered", "failed", "total", "model", "name")
    table = Table(*[Column(name, no_wrap=True) for name in fixed], box=None)
    with Client(url, api_key) as client:
        for _, job in zip(range(limit), client.jobs(), strict=False):
            counts = job.counts
            numbers = [str(n) for n in (counts.succeeded, counts.failed, counts.total)]
            table.add_row(job.id, job.state, *numbers, job.model, job.name)
    # Columns are never cut: a narrow terminal wraps the line instead.
    Console(width=max(Console().width, 120), soft_wrap=True).print(table)


@app.command()
def results(job_id: str, out: ResultsOut = None, url: Url = None, api_key: Key = None) -> None:
    """Print the results of a job so far, in the order of its submission."""
    form = _form(out, "jsonl")
    with Client(url, api_key) as client:
        found = sorted(client.results(job_id), key=lambda result: result.index)
    outcomes = [
        batch.Outcome(
            result.custom_id or str(result.index),
            result.answer,
            result.error or (None if result.answer is not None else result.state),
        )
        for result in found
    ]
    _write(outcomes, out, form)


@app.command()
def cancel(job_id: str, url: Url = None, api_key: Key = None) -> None:
    """Start no more items of a job; what is answered stays."""
    with Client(url, api_key) as client:
        print(f"{job_id} is {client.cancel(job_id).state}")


@app.command()
def models(url: Url = None, api_key: Key = None) -> None:
    """List the models that the service knows."""
    table = Table("model", "state", "kinds", "licence", "note", box=None)
    with Client(url, api_key) as client:
        for model in client.models():
            state = "ready" if model.ready else "offline"
            table.add_row(model.name, state, ", ".join(model.kinds), model.licence, model.note)
    Console().print(table)


@app.command()
def up(
    data: Annotated[Path, typer.Option(help="Where jobs, images and the key are kept")] = Path(
        "data"
    ),
    port: Annotated[int, typer.Option(help="Port of the API; 0 picks a free one")] = 8000,
    model: Annotated[list[str] | None, typer.Option(help="Model to serve; may be repeated")] = None,
) -> None:
    """Run the whole service on this machine until Ctrl-C."""
    from idefiq.up import Stack, run_until_stopped

    run_until_stopped(Stack(data, port=port, models=model or None))


def main() -> None:
    """Run the command; what goes wrong is one line on standard error."""
    try:
        app()
    except (IdefiqError, OSError) as error:
        errors.print(f"error: {error}", style="red", markup=False)
        sys.exit(2)


if __name__ == "__main__":
    main()
