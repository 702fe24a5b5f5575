"""`idefiq alt`: alternative text for the images of a site.

Longer than 300 lines because it also carries the form of release 0.1, until 0.3.
"""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from idefiq.alt import drafts, files, report
from idefiq.alt import write as writing
from idefiq.alt.drafts import Asking
from idefiq.alt.site import Site, SiteOptions
from idefiq.cli.alt_output import Outcome, print_findings, print_outcome
from idefiq.cli.common import ApiKeyOption, AsJson, UrlOption, errors
from idefiq.cli.lint import lint, lint_alt
from idefiq.client import Client
from idefiq.errors import IdefiqError
from idefiq.reviews import Review
from idefiq.types import Job, Result

What = Annotated[
    list[str], typer.Argument(help="Folders, pages (.html .xhtml .md), an .epub, URLs of pages")
]
Root = Annotated[
    list[Path] | None,
    typer.Option(help="Folder where paths such as /img/a.png begin; may be repeated"),
]
Report = Annotated[
    Path | None, typer.Option("--report", help="Write a report of all images to FILE.json or .csv")
]
Force = Annotated[
    bool, typer.Option("--force", help="Include images that have a person's text already")
]
DescribeEmpty = Annotated[
    bool, typer.Option("--describe-empty", help='Include images with alt="", but not in links')
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only count what would be drafted; needs no service")
]
NoContext = Annotated[
    bool, typer.Option("--no-context", help="Do not send the text of the page to the model")
]
TargetLength = Annotated[
    int | None, typer.Option(min=20, max=1_000, help="Characters to aim at (default: 125)")
]
LongDescriptions = Annotated[
    bool, typer.Option("--long-descriptions", help="Draft detailed descriptions too")
]
Language = Annotated[
    str, typer.Option(help="Language of all texts, such as French (default: that of each page)")
]
ModelOption = Annotated[
    str | None, typer.Option(help="Model to use (needed if several are served)")
]
Jobs = Annotated[
    list[str] | None,
    typer.Option("--job", help="Only drafts of this job; may be repeated (default: all)"),
]
Patch = Annotated[
    Path | None, typer.Option(help="Write a unified diff instead of the pages; - prints it")
]
#: Release 0.1 had options in place of commands.
_OLD_FORM = "until_0_3"


class _Group(TyperGroup):
    """A group that also understands the form of release 0.1: `idefiq alt SITE [--check]`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [_OLD_FORM, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Group, no_args_is_help=True, help="Alternative text for the images of a site."
)


def add_to(parent: typer.Typer) -> None:
    """Add the commands of this module."""
    parent.add_typer(app, name="alt")
    parent.command("lint-alt", hidden=True)(lint_alt)


app.command("lint")(lint)


@app.command()
def check(
    what: What,
    report_to: Report = None,
    root: Root = None,
    force: Force = False,
    describe_empty: DescribeEmpty = False,
    as_json: AsJson = False,
) -> None:
    """List images that need a text. Needs no service; exits with 1 if there are any."""
    site = _site(what, root, report_to, SiteOptions(force, describe_empty))
    _write_report(report_to, site)
    print_findings(site, as_json=as_json)
    raise typer.Exit(1 if site.open or site.unread else 0)


@app.command()
def draft(
    what: What,
    dry_run: DryRun = False,
    report_to: Report = None,
    root: Root = None,
    force: Force = False,
    describe_empty: DescribeEmpty = False,
    no_context: NoContext = False,
    target_length: TargetLength = None,
    long_descriptions: LongDescriptions = False,
    language: Language = "",
    model: ModelOption = None,
    as_json: AsJson = False,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Draft texts for images that need one; people then decide with `idefiq review`.

    No page is written. Images that were drafted before are not drafted again.
    """
    site = _site(what, root, report_to, SiteOptions(force, describe_empty))
    if dry_run:
        _write_report(report_to, site)
        print_findings(site, as_json=as_json)
        return
    asking = Asking(
        model=model,
        name=_job_name(what),
        with_context=not no_context,
        target_length=target_length,
        long_descriptions=long_descriptions,
        language=language,
    )
    with Client(url, api_key) as client:
        outcome = _draft(client, site, asking)
    _write_report(report_to, site, outcome.found)
    print_outcome(site, outcome, as_json=as_json)
    _exit_if_incomplete(site, outcome)


@app.command()
def apply(
    what: What,
    job: Jobs = None,
    unreviewed: Annotated[
        bool,
        typer.Option("--unreviewed", help="Write drafts that nobody has reviewed too, marked"),
    ] = False,
    patch: Patch = None,
    report_to: Report = None,
    root: Root = None,
    force: Force = False,
    describe_empty: DescribeEmpty = False,
    as_json: AsJson = False,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Write accepted texts into the pages, and alt="" for decorative images.

    Nothing else of a page changes.
    """
    options = SiteOptions(force, describe_empty)
    site = _site(what, root, report_to, options)
    with Client(url, api_key) as client:
        if job:
            outcome = _of_jobs(client, site, job)
        else:
            found = drafts.drafted(client, drafts.groups(site))
            outcome = Outcome(list(dict.fromkeys(one.job for one in found)), found)
    _apply(what, site, outcome, root, options, unreviewed, patch, report_to, as_json=as_json)


def _apply(
    what: list[str],
    site: Site,
    outcome: Outcome,
    root: list[Path] | None,
    options: SiteOptions,
    unreviewed: bool,
    patch: Path | None,
    report_to: Path | None,
    *,
    as_json: bool,
) -> None:
    texts = drafts.outcomes(site.findings, outcome.found, with_drafts=unreviewed)
    changed = writing.changes(site.findings, texts)
    if patch:
        _write_patch(patch, writing.patch(changed))
    else:
        writing.write(changed)
    if report_to:
        report.write(report_to, site, report.rows(site, texts, outcome.found))
    pages = [change.page for change in changed]
    outcome = replace(outcome, wrote=pages, is_patch=bool(patch))
    after = _read(what, root, options) if changed and not patch else site
    with contextlib.redirect_stdout(sys.stderr if str(patch) == "-" else sys.stdout):
        print_outcome(after, outcome, as_json=as_json)
    _exit_if_incomplete(site, outcome)


@app.command(_OLD_FORM, hidden=True)
def old_form(
    what: What,
    is_check: Annotated[bool, typer.Option("--check")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run")] = False,
    apply_jobs: Annotated[list[str] | None, typer.Option("--apply")] = None,
    with_drafts: Annotated[bool, typer.Option("--drafts")] = False,
    write: Annotated[bool, typer.Option("--write")] = False,
    patch: Patch = None,
    report_to: Report = None,
    root: Root = None,
    force: Force = False,
    describe_empty: DescribeEmpty = False,
    no_context: NoContext = False,
    target_length: TargetLength = None,
    long_descriptions: LongDescriptions = False,
    language: Language = "",
    model: ModelOption = None,
    as_json: AsJson = False,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Run `check`, `draft` or `apply` by the options of release 0.1."""
    writes = bool(write or apply_jobs or patch)
    if (is_check or dry_run) and writes:
        raise IdefiqError("--check and --dry-run write no pages: leave out --write or --apply")
    if with_drafts and not writes:
        raise IdefiqError("--drafts requires --write, --patch or --apply")
    new = "check" if is_check else "draft`, then `idefiq alt apply" if writes else "draft"
    errors.print(
        f"warning: this form works until release 0.3; use `idefiq alt {new}` instead",
        style="yellow",
    )
    if is_check:
        check(what, report_to, root, force, describe_empty, as_json)
    if not writes:
        draft(
            what,
            dry_run=dry_run,
            report_to=report_to,
            root=root,
            force=force,
            describe_empty=describe_empty,
            no_context=no_context,
            target_length=target_length,
            long_descriptions=long_descriptions,
            language=language,
            model=model,
            as_json=as_json,
            url=url,
            api_key=api_key,
        )
        return
    options = SiteOptions(force, describe_empty)
    site = _site(what, root, report_to, options)
    asking = Asking(
        model=model,
        name=_job_name(what),
        with_context=not no_context,
        target_length=target_length,
        long_descriptions=long_descriptions,
        language=language,
    )
    with Client(url, api_key) as client:
        found = _of_jobs(client, site, apply_jobs) if apply_jobs else None
        outcome = found or _draft(client, site, asking)
    _apply(what, site, outcome, root, options, with_drafts, patch, report_to, as_json=as_json)


# ---- parts --------------------------------------------------------------------------


def _site(
    what: list[str], root: list[Path] | None, report_to: Path | None, options: SiteOptions
) -> Site:
    if report_to:
        report.check(report_to)
    site = _read(what, root, options)
    if not site.pages and not site.unread:
        raise IdefiqError(f"no pages in {', '.join(what)}: looked for {' '.join(files.PAGES)}")
    return site


def _read(what: list[str], root: list[Path] | None, options: SiteOptions) -> Site:
    return Site([files.named(word, root or ()) for word in what], options)


def _job_name(what: list[str]) -> str:
    return f"alt text of {', '.join(what)}"[:200]


def _of_jobs(client: Client, site: Site, jobs: list[str]) -> Outcome:
    found = [one for job in jobs for one in client.reviews(client.job(job))]
    return Outcome(jobs, found, lost=_without_place(site, found))


def _draft(client: Client, site: Site, asking: Asking) -> Outcome:
    """Draft texts for the images that have no draft yet."""
    wanted = drafts.groups(site)
    found = drafts.drafted(client, wanted)
    known = {one.custom_id for one in found}
    new = {key: some for key, some in wanted.items() if key not in known}
    failed: list[Result] = []
    if known:
        errors.print(f"{len(known)} images have drafts already")
    if new:
        job = drafts.ask(client, new, asking)
        errors.print(f"{job.id} drafts {len(new)} texts")
        _wait(client, job)
        found += client.reviews(job)
        failed = [one for one in client.results(job) if one.state != "succeeded"]
    return Outcome(list(dict.fromkeys(one.job for one in found)), found, failed)


def _without_place(site: Site, found: Sequence[Review]) -> list[Review]:
    keys = {finding.key for finding in site}
    decided = ("accepted", "edited", "decorative")
    return [one for one in found if one.state in decided and one.custom_id not in keys]


def _wait(client: Client, job: Job) -> Job:
    try:
        return client.wait(job)
    except KeyboardInterrupt:
        errors.print(f"stopped: {job.id} continues; the same command waits for it again")
        raise


def _exit_if_incomplete(site: Site, outcome: Outcome) -> None:
    if outcome.failed or outcome.lost or site.unread:
        raise typer.Exit(1)


def _write_patch(path: Path, data: bytes) -> None:
    if str(path) == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    else:
        path.write_bytes(data)


def _write_report(path: Path | None, site: Site, found: Sequence[Review] = ()) -> None:
    if path:
        outcomes = drafts.outcomes(site.findings, found, with_drafts=False) if found else {}
        report.write(path, site, report.rows(site, outcomes, found))
