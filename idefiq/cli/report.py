"""What a run prints: progress, the summary, and how to resume."""

from collections.abc import Iterator, Mapping, Sequence
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

from idefiq.bulk import run
from idefiq.bulk.manifest import Manifest
from idefiq.bulk.outputs import Output
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
    for chunk in (chunk for chunk in manifest.chunks.unfinished() if chunk.job_id):
        errors.print(f"{chunk.job_id} still runs; stop it with `idefiq cancel {chunk.job_id}`")


def print_summary(
    manifest: Manifest, output: Output, summary: run.Summary, *, as_json: bool
) -> None:
    """Print the summary of a run. Exits with 1 if an image failed."""
    failures = [
        {"file": image.columns.get("file", image.key), "error": image.error, "code": image.code}
        for image in manifest.images.in_state("failed")
    ]
    if as_json:
        print_json({**asdict(summary), "failures": failures})
    else:
        _print_failures(manifest, failures, summary.done + summary.failed)
        _print_outcome(output, summary)
    if failures:
        raise typer.Exit(1)


def _print_failures(manifest: Manifest, failures: Sequence[dict[str, Any]], asked: int) -> None:
    for failure in failures[:LISTED_FAILURES]:
        errors.print(f"failed: {failure['file']}: {failure['error']}", style="red")
    if len(failures) > LISTED_FAILURES:
        errors.print(f"… and {len(failures) - LISTED_FAILURES} more; all are in the output")
    if failures:
        retry = f"; retry with `idefiq retry {manifest.path}`" if manifest.path else ""
        errors.print(f"{len(failures)} of {asked} images failed{retry}")


def _print_outcome(output: Output, summary: run.Summary) -> None:
    if summary.skipped:
        errors.print(f"{summary.skipped} images were skipped because they have a text")
    if summary.kept:
        errors.print(f"{summary.kept} retried images failed and keep their earlier answers")
    if summary.issues:
        listed = ", ".join(f"{code} {count}" for code, count in summary.issues.items())
        errors.print(f"answers with issues: {summary.answers_with_issues} ({listed})")
    if summary.cost is not None:
        errors.print(f"cost: {_money(asdict(summary))}")
    if output.where:
        errors.print(f"{summary.done} answers written to {output.where}")


@contextmanager
def progress(*, quiet: bool) -> Iterator[run.ReportProgress]:
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


def _money(record: Mapping[str, Any]) -> str:
    return f"{record['cost']:,.2f} {record['currency']}".strip()


def print_dry_run(record: dict[str, Any], *, as_json: bool) -> None:
    """Print the counts of a dry run, and an estimate of its duration and cost."""
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
    if record["cost"] is not None:
        print(f"estimated cost: {_money(record)}, at the cost of recent jobs")
