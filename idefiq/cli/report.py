"""What a run prints: progress, the summary, and how to resume."""

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
from idefiq.cli.common import errors, print_json

#: Failures printed at the end; all are in the output.
LISTED_FAILURES = 20


def _duration(seconds: float) -> str:
    """Format a duration, such as 2 h 5 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def print_how_to_resume(manifest: Manifest) -> None:
    """Print how to resume a stopped run, and which jobs still run."""
    if manifest.path:
        errors.print("stopped; run the same command again to resume")
    for chunk in (chunk for chunk in manifest.open_chunks() if chunk.job_id):
        errors.print(f"{chunk.job_id} still runs; stop it with `idefiq cancel {chunk.job_id}`")


def print_summary(
    manifest: Manifest, output: outputs.Output, summary: run.Summary, *, as_json: bool
) -> None:
    """Print the summary of a run. Exits with 1 if an image failed."""
    failures = [
        {"file": image.columns.get("file", image.key), "error": image.error, "code": image.code}
        for image in manifest.images("failed")
    ]
    if as_json:
        print_json({**asdict(summary), "failures": failures})
    else:
        for failure in failures[:LISTED_FAILURES]:
            line = f"failed: {failure['file']}: {failure['error']}"
            errors.print(line, style="red")
        if len(failures) > LISTED_FAILURES:
            errors.print(f"… and {len(failures) - LISTED_FAILURES} more; all are in the output")
        asked = summary.done + summary.failed
        if failures:
            retry = f"; retry with `idefiq retry {manifest.path}`" if manifest.path else ""
            errors.print(f"{len(failures)} of {asked} images failed{retry}")
        if summary.skipped:
            errors.print(f"{summary.skipped} images were skipped because they have a text")
        if output.form is not outputs.Form.PRINT:
            where = output.plan.out or f"{output.suffix} files beside the images"
            errors.print(f"{summary.done} answers written to {where}")
    if failures:
        raise typer.Exit(1)


@contextmanager
def progress(*, quiet: bool) -> Iterator[run.Report]:
    """Show a progress bar on standard error, with rate and time left."""
    columns = (
        TextColumn("finished"),
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


def print_dry_run(record: dict[str, Any], *, as_json: bool) -> None:
    """Print the counts of a dry run, and an estimate of its duration."""
    if as_json:
        print_json(record)
        return
    for name in ("images", "to_ask", "in_progress", "done", "skipped", "failed"):
        print(f"{name.replace('_', ' ')}: {record[name]}")
    for bucket in record["listed_by_the_service"]:
        print(f"listed by the service: {bucket}")
    if rate := record["items_per_second"]:
        print(f"estimated time: {_duration(record['seconds'])}, at {rate:.1f}/s as in recent jobs")
    else:
        print("no estimate yet; run with --limit 50 first")
