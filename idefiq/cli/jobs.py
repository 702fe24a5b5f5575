"""Commands that look after jobs."""

from dataclasses import asdict
from itertools import islice
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from idefiq.bulk import outputs, writers
from idefiq.bulk.ask import Ask, Plan
from idefiq.bulk.images import Image, outcome
from idefiq.cli.common import ApiKeyOption, AsJson, UrlOption, say_json
from idefiq.client import Client
from idefiq.types import IdefiqError, Job, Result

Out = Annotated[
    str | None,
    typer.Option(help="FILE.jsonl, .csv, .parquet or .txt; else JSON lines on standard output"),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (jobs, results, watch, cancel, pause, resume, priority, delete):
        app.command()(command)


def jobs(
    url: UrlOption = None, api_key: ApiKeyOption = None, limit: int = 20, as_json: AsJson = False
) -> None:
    """List jobs, newest first."""
    with Client(url, api_key) as client:
        found = list(islice(client.jobs(), limit))
    if as_json:
        for job in found:
            say_json(asdict(job))
        return
    fixed = ("job", "state", "answered", "failed", "total", "model", "name")
    # An id that is cut is of no use.
    columns = [Column(name, no_wrap=True, min_width=33 if name == "job" else 0) for name in fixed]
    table = Table(*columns, box=None)
    for job in found:
        counts = job.counts
        numbers = [str(n) for n in (counts.succeeded, counts.failed, counts.total)]
        table.add_row(job.id, job.state, *numbers, job.model, job.name)
    # Columns are never cut: a narrow terminal wraps the line instead.
    Console(width=max(Console().width, 120), soft_wrap=True, markup=False).print(table)


def results(
    job_id: str,
    out: Out = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file if it is there")
    ] = False,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Print the results of a job so far, in the order of its submission."""
    output = outputs.resolve(Plan(sources=[], ask=Ask({}), out=out, existing="overwrite"))
    if output.form not in (outputs.Form.PRINT, outputs.Form.FILE):
        raise IdefiqError(f"{out!r}: results go into one file")
    if output.is_there() and not overwrite:
        raise IdefiqError(f"{out!r} is there: --overwrite replaces it")
    with Client(url, api_key) as client:
        found = sorted(client.results(job_id), key=lambda result: result.index)
    images = map(_image, found)
    if out is None:
        for line in writers.jsonl_lines(output.plan, images):
            print(line.decode(), end="")
    else:
        output.write(images, [])


def _image(result: Result) -> Image:
    """A result as outputs take it."""
    name = result.custom_id or str(result.index)
    _, _, error, code = outcome(result)
    told = {"file": name}
    return Image(result.index, name, {}, told, None, None, "", "done", result.detail, error, code)


def watch(job_id: str, url: UrlOption = None, api_key: ApiKeyOption = None) -> None:
    """Print what happens to a job as it happens, a line of JSON each, up to its end."""
    with Client(url, api_key) as client:
        for event in client.events(job_id):
            told = event.result or event.job
            assert told
            say_json({"event": event.name, "id": event.id, **asdict(told)})


def _steered(job: Job) -> None:
    print(f"{job.id} is {job.state}")


def cancel(job_id: str, url: UrlOption = None, api_key: ApiKeyOption = None) -> None:
    """Start no more items of a job; what is answered stays."""
    with Client(url, api_key) as client:
        _steered(client.cancel(job_id))


def pause(job_id: str, url: UrlOption = None, api_key: ApiKeyOption = None) -> None:
    """Start nothing new of a job until it is resumed."""
    with Client(url, api_key) as client:
        _steered(client.pause(job_id))


def resume(job_id: str, url: UrlOption = None, api_key: ApiKeyOption = None) -> None:
    """Go on with a paused job."""
    with Client(url, api_key) as client:
        _steered(client.resume(job_id))


def priority(
    job_id: str,
    steps: Annotated[int, typer.Argument(help="-10 to 10; each is worth ten minutes of waiting")],
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Let a job go before, or after, your others; use -- before a negative number."""
    with Client(url, api_key) as client:
        job = client.prioritize(job_id, steps)
    print(f"{job.id} has priority {job.priority}")


def delete(job_id: str, url: UrlOption = None, api_key: ApiKeyOption = None) -> None:
    """Delete a finished job with its items and results."""
    with Client(url, api_key) as client:
        client.delete(job_id)
    print(f"{job_id} is deleted")
