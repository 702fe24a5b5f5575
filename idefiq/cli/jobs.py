"""Commands for jobs."""

from dataclasses import asdict
from itertools import islice
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from idefiq.bulk import formats
from idefiq.bulk.ask import Ask, Plan
from idefiq.bulk.choose_output import choose_output
from idefiq.bulk.formats import ENDINGS
from idefiq.bulk.images import Image, outcome
from idefiq.bulk.outputs import OneFile
from idefiq.cli.common import ApiKeyOption, AsJson, UrlOption, print_json
from idefiq.client import Client
from idefiq.errors import IdefiqError
from idefiq.types import ISSUES, Job, Result

Out = Annotated[
    str | None,
    typer.Option(help=f"FILE{ENDINGS} (default: print JSON lines)"),
]
JobId = Annotated[str, typer.Argument(help="Id of the job, as `idefiq jobs` lists it")]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (jobs, results, watch, cancel, pause, resume, priority, delete):
        app.command()(command)


def jobs(
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
    limit: Annotated[int, typer.Option(min=1, help="List at most this many")] = 20,
    state: Annotated[
        list[str] | None,
        typer.Option(help="Only jobs in this state, such as running; may be repeated"),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Only jobs of this name")] = None,
    model: Annotated[str | None, typer.Option(help="Only jobs of this model")] = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    with Client(url, api_key) as client:
        found = list(islice(client.jobs(states=state or (), name=name, model=model), limit))
    if as_json:
        for job in found:
            print_json(asdict(job))
        return
    fixed = ("job", "state", "answered", "failed", "issues", "total", "model", "name")
    # A truncated id is useless.
    columns = [Column(name, no_wrap=True, min_width=33 if name == "job" else 0) for name in fixed]
    table = Table(*columns, box=None)
    for job in found:
        counts = job.counts
        shown = (counts.succeeded, counts.failed, job.answers_with_issues, counts.total)
        numbers = [str(number) for number in shown]
        table.add_row(job.id, job.state, *numbers, job.model, job.name)
    # Columns are never truncated: a narrow terminal wraps the line instead.
    Console(width=max(Console().width, 120), soft_wrap=True, markup=False).print(table)


def results(
    job_id: JobId,
    out: Out = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file")
    ] = False,
    issue: Annotated[
        list[str] | None,
        typer.Option(help=f"Only answers with this issue: {ISSUES}; repeatable"),
    ] = None,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Print or save the results of a job so far, in the order of submission."""
    output = choose_output(Plan(sources=[], ask=Ask({}), out=out, existing="overwrite"))
    if not (out is None or isinstance(output, OneFile)):
        raise IdefiqError(f"{out!r}: results need a single file")
    if output.is_there() and not overwrite:
        raise IdefiqError(f"{out!r} exists; replace it with --overwrite")
    with Client(url, api_key) as client:
        found = sorted(client.results(job_id, issues=issue or ()), key=lambda result: result.index)
    images = map(_image, found)
    if out is None:
        for line in formats.jsonl_lines(output.plan, images):
            print(line.decode(), end="")
    else:
        output.write(images, [])


def _image(result: Result) -> Image:
    """Turn a result into the row of an output."""
    name = result.custom_id or str(result.index)
    _, _, error, code = outcome(result)
    record = {"file": name}
    return Image(result.index, name, {}, record, None, None, "", "done", result.detail, error, code)


def watch(job_id: JobId, url: UrlOption = None, api_key: ApiKeyOption = None) -> None:
    """Print events of a job as JSON lines until it has finished."""
    with Client(url, api_key) as client:
        for event in client.events(job_id):
            record = event.result or event.job
            assert record
            print_json({"event": event.name, "id": event.id, **asdict(record)})


def _print_job(job: Job, line: str, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(job))
    else:
        print(f"{job.id}: {line}")


def cancel(
    job_id: JobId, as_json: AsJson = False, url: UrlOption = None, api_key: ApiKeyOption = None
) -> None:
    """Cancel a job. Answers so far are kept."""
    with Client(url, api_key) as client:
        job = client.cancel(job_id)
    _print_job(job, job.state, as_json=as_json)


def pause(
    job_id: JobId, as_json: AsJson = False, url: UrlOption = None, api_key: ApiKeyOption = None
) -> None:
    """Pause a job: start no more of its items."""
    with Client(url, api_key) as client:
        job = client.pause(job_id)
    _print_job(job, job.state, as_json=as_json)


def resume(
    job_id: JobId, as_json: AsJson = False, url: UrlOption = None, api_key: ApiKeyOption = None
) -> None:
    """Resume a paused job."""
    with Client(url, api_key) as client:
        job = client.resume(job_id)
    _print_job(job, job.state, as_json=as_json)


def priority(
    job_id: JobId,
    steps: Annotated[
        int, typer.Argument(help="-10 to 10; each step is worth ten minutes of waiting")
    ],
    as_json: AsJson = False,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Set the priority of a job among your own. Put -- before a negative number."""
    with Client(url, api_key) as client:
        job = client.prioritize(job_id, steps)
    _print_job(job, f"priority {job.priority}", as_json=as_json)


def delete(
    job_id: JobId, as_json: AsJson = False, url: UrlOption = None, api_key: ApiKeyOption = None
) -> None:
    """Delete a finished job with its items and results."""
    with Client(url, api_key) as client:
        client.delete(job_id)
    if as_json:
        print_json({"id": job_id, "deleted": True})
    else:
        print(f"{job_id}: deleted")
