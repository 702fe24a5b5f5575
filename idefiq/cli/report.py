"""What a run tells people: how far it is, what came of it, how to go on."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from idefiq.bulk import outputs, run
from idefiq.bulk.manifest import Manifest
from idefiq.cli.common import errors, say_json

#: Failures listed at the end; the others are in the output.
LISTED_FAILURES = 20


def _duration(seconds: float) -> str:
    """For people."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def say_how_to_go_on(manifest: Manifest) -> None:
    """What a run that stops leaves behind."""
    if manifest.path:
        errors.print("stopped: the same command goes on where this one was")
    for chunk in (chunk for chunk in manifest.open_chunks() if chunk.job_id):
        errors.print(f"{chunk.job_id} goes on: `idefiq cancel {chunk.job_id}` stops it")


def say_the_end(
    manifest: Manifest, output: outputs.Output, summary: run.Summary, *, as_json: bool
) -> None:
    """What came of a run; exits with 1 if anything failed."""
    failures = [
        {"file": image.columns.get("file", image.key), "error": image.error, "code": image.code}
        for image in manifest.images("failed")
    ]
    if as_json:
        say_json({**asdict(summary), "failures": failures})
    else:
        for failure in failures[:LISTED_FAILURES]:
            said = f"failed: {failure['file']}: {failure['error']}"
            errors.print(said, style="red")
        if len(failures) > LISTED_FAILURES:
            errors.print(f"… and {len(failures) - LISTED_FAILURES} more, which are in the output")
        asked = summary.done + summary.failed
        if failures:
            retry_it = f"; idefiq retry {manifest.path} asks again" if manifest.path else ""
            errors.print(f"{len(failures)} of {asked} failed{retry_it}")
        if summary.skipped:
            errors.print(f"{summary.skipped} had a text already and were skipped")
        if output.form is not outputs.Form.PRINT:
            where = output.plan.out or f"{output.suffix} files beside the images"
            errors.print(f"{summary.done} answers are in {where}")
    if failures:
        raise typer.Exit(1)


@contextmanager
def progress(*, quiet: bool) -> Iterator[run.Report]:
    """A bar on standard error with rate and time left."""
    columns = (
        TextColumn("answered"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, disable=quiet) as shown:
        bar = shown.add_task("", total=None, rate="")

        def report(counts: dict[str, int], rate: float | None) -> None:
            done = counts.get("done", 0) + counts.get("failed", 0)
            total = done + counts.get("new", 0) + counts.get("sent", 0)
            pace = f"{rate:.1f}/s" if rate else ""
            shown.update(bar, completed=done, total=total, rate=pace)

        yield report


def say_what_there_is(told: dict[str, Any], *, as_json: bool) -> None:
    """What a dry run has found."""
    if as_json:
        say_json(told)
        return
    for name in ("images", "to_ask", "on_their_way", "done", "skipped", "failed"):
        print(f"{name.replace('_', ' ')}: {told[name]}")
    for bucket in told["listed_by_the_service"]:
        print(f"listed by the service: {bucket}")
    if rate := told["items_per_second"]:
        print(f"about {_duration(told['seconds'])}, at the {rate:.1f}/s of recent jobs")
    else:
        print("how long it takes is not known: try some first, with --limit 50")
