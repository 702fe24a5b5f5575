"""`idefiq alt`: text alternatives of the images of a site."""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from idefiq.alt import drafts, files, report
from idefiq.alt import write as writing
from idefiq.alt.drafts import Asking, DraftOutcome
from idefiq.alt.site import AltState, Site, SiteImage, SiteOptions
from idefiq.cli.common import ApiKeyOption, AsJson, UrlOption, errors, say_json, shown
from idefiq.client import Client
from idefiq.types import IdefiqError, Job, Result, Review

#: Findings listed on the terminal; a report has all.
LISTED = 50

What = Annotated[
    list[str], typer.Argument(help="Folders, pages (.html .xhtml .md), an .epub, URLs of pages")
]
Root = Annotated[
    list[Path] | None,
    typer.Option(help="Where paths such as /img/a.png begin, if not at the folder; repeatable"),
]


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("alt")(alt)


def alt(  # noqa: PLR0913 - what a site can be asked for
    what: What,
    check: Annotated[
        bool, typer.Option("--check", help="Only look; exit with 1 if an image needs a text")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only look, and say what would be asked")
    ] = False,
    apply: Annotated[
        list[str] | None,
        typer.Option(help="Ask nothing: write what was accepted in this job; repeatable"),
    ] = None,
    with_drafts: Annotated[
        bool, typer.Option("--drafts", help="Write drafts that nobody has reviewed too, marked")
    ] = False,
    write: Annotated[
        bool, typer.Option("--write", help="Write the pages; so does --apply, without --patch")
    ] = False,
    patch: Annotated[
        Path | None, typer.Option(help="Write a unified diff instead of the pages; - prints it")
    ] = None,
    report_to: Annotated[
        Path | None, typer.Option("--report", help="Write what was found to a .json or .csv")
    ] = None,
    root: Root = None,
    force: Annotated[
        bool, typer.Option("--force", help="Ask about images too that have a person's text")
    ] = False,
    describe_empty: Annotated[
        bool,
        typer.Option("--describe-empty", help='Ask about images with alt="" too, unless a link'),
    ] = False,
    no_context: Annotated[
        bool, typer.Option("--no-context", help="Tell the model nothing of the page")
    ] = False,
    target_length: Annotated[
        int | None, typer.Option(min=20, max=1_000, help="Characters aimed at; 125 if not said")
    ] = None,
    long_descriptions: Annotated[
        bool, typer.Option("--long-descriptions", help="Ask for detailed descriptions too")
    ] = False,
    language: Annotated[
        str, typer.Option(help="Of all texts, such as French; else each page's own")
    ] = "",
    model: Annotated[str | None, typer.Option(help="Which model; may be left out")] = None,
    as_json: AsJson = False,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Find images without a proper text alternative, draft one, and write what was accepted."""
    writes = bool(write or apply or patch)
    _check_options(report_to, looks=check or dry_run, writes=writes, with_drafts=with_drafts)
    look = partial(
        Site,
        [files.named(word, root or ()) for word in what],
        SiteOptions(force, describe_empty),
    )
    site = look()
    if not site.pages and not site.unread:
        raise IdefiqError(f"no pages in {', '.join(what)}: looked for {' '.join(files.PAGES)}")
    if check or dry_run:
        _write_report(report_to, site, {}, [])
        _say_what_there_is(site, as_json=as_json)
        raise typer.Exit(1 if check and (site.open or site.unread) else 0)
    asking = Asking(
        model=model,
        name=f"alt text of {', '.join(what)}"[:200],
        with_context=not no_context,
        target_length=target_length,
        long_descriptions=long_descriptions,
        language=language,
    )
    with Client(url, api_key) as client:
        end = _of_jobs(client, site, apply) if apply else _asked(client, site, asking)
    outcomes = drafts.outcomes(site.findings, end.found, with_drafts=with_drafts)
    changed = writing.changes(site.findings, outcomes) if writes else []
    if patch:
        _write_patch(patch, writing.patch(changed))
    else:
        writing.write(changed)
    _write_report(report_to, site, outcomes, end.found)
    end = replace(end, wrote=[change.page for change in changed], is_patch=bool(patch))
    with contextlib.redirect_stdout(sys.stderr if str(patch) == "-" else sys.stdout):
        _say_the_end(look() if changed and not patch else site, end, as_json=as_json)
    if end.failed or end.lost or site.unread:
        raise typer.Exit(1)


def _check_options(report_to: Path | None, *, looks: bool, writes: bool, with_drafts: bool) -> None:
    if report_to:
        report.check(report_to)
    if looks and writes:
        raise IdefiqError("--check and --dry-run only look: they write no pages")
    if with_drafts and not writes:
        raise IdefiqError("--drafts is for writing: say --write, --patch or --apply too")


@dataclass(frozen=True)
class _End:
    """What a run has come to."""

    jobs: Sequence[str]
    found: Sequence[Review]
    failed: Sequence[Result] = ()
    #: Decided, and about no image of this site.
    lost: Sequence[Review] = ()
    wrote: Sequence[str] = ()
    is_patch: bool = False


def _of_jobs(client: Client, site: Site, jobs: Sequence[str]) -> _End:
    """What people have made of the drafts of some jobs."""
    found = [one for job in jobs for one in client.reviews(client.job(job))]
    return _End(jobs, found, lost=_without_place(site, found))


def _asked(client: Client, site: Site, asking: Asking) -> _End:
    """Ask about what was not drafted before."""
    wanted = drafts.groups(site)
    found = drafts.drafted(client, wanted)
    known = {one.custom_id for one in found}
    new = {key: some for key, some in wanted.items() if key not in known}
    failed: list[Result] = []
    if known:
        errors.print(f"{len(known)} were drafted before and are not asked about again")
    if new:
        job = drafts.ask(client, new, asking)
        errors.print(f"{job.id} drafts {len(new)} texts")
        _finished(client, job)
        found += client.reviews(job)
        failed = [one for one in client.results(job) if one.state != "succeeded"]
    return _End(list(dict.fromkeys(one.job for one in found)), found, failed)


def _without_place(site: Site, found: Sequence[Review]) -> list[Review]:
    keys = {finding.key for finding in site}
    decided = ("accepted", "edited", "decorative")
    return [one for one in found if one.state in decided and one.custom_id not in keys]


def _finished(client: Client, job: Job) -> Job:
    try:
        return client.wait(job)
    except KeyboardInterrupt:
        errors.print(f"stopped: {job.id} goes on, and the same command waits for it again")
        raise


def _write_patch(path: Path, data: bytes) -> None:
    if str(path) == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    else:
        path.write_bytes(data)


def _write_report(
    path: Path | None, site: Site, outcomes: dict[int, DraftOutcome], found: Sequence[Review]
) -> None:
    if path:
        report.write(path, site, report.rows(site, outcomes, found))


def _say_what_there_is(site: Site, *, as_json: bool) -> None:
    if as_json:
        say_json({**report.counts(site), "to_ask": len(drafts.groups(site))})
        return
    for finding in site.open[:LISTED]:
        print(_line(finding))
    if len(site.open) > LISTED:
        print(f"… and {len(site.open) - LISTED} more: --report has all")
    for note in site.notes[:LISTED]:
        print(shown(f"{note.page}:{note.line}: note: {note.what[:80]}: {note.reason}"))
    for note in site.unread:
        print(shown(f"{note.page}: not read: {note.reason}"))
    _say_counts(site)


def _line(finding: SiteImage) -> str:
    what = (finding.place.source or finding.place.element.name)[:80]
    problem = finding.problem.replace("_", " ") or "asked for again"
    if finding.state is AltState.PERSON:
        problem = f"needs a person, {problem}"
    said = f"{problem}, {finding.role}: {what} ({finding.reason})"
    return shown(f"{finding.shown_page}:{finding.line}: {said}")


def _say_counts(site: Site) -> None:
    counts = report.counts(site)
    print(
        f"{counts['images']} images on {counts['pages']} pages: {counts['ok']} are fine,"
        f' {counts["ask"]} need a text, {counts["empty"]} are decorative and need alt="",'
        f" {counts['person']} need a person; {counts['notes']} notes"
    )


def _say_the_end(site: Site, end: _End, *, as_json: bool) -> None:
    states = {state: sum(one.state == state for one in end.found) for state in _STATES}
    asked = [finding for finding in site if finding.state is AltState.ASK]
    of_key = {finding.key: finding for finding in reversed(asked)}  # the first of each
    failed = [
        f"{_where(of_key.get(one.custom_id or ''), one)}: {one.error or one.state}"
        for one in end.failed
    ]
    lost = [f"{one.page} {one.context.get('source', '')}" for one in end.lost]
    if as_json:
        told = {**report.counts(site), "jobs": list(end.jobs), "reviews": states}
        say_json({**told, "written": list(end.wrote), "failed": failed, "without_place": lost})
        return
    for text in (
        *(f"failed: {text}" for text in failed),
        *(f"not read: {note.page}: {note.reason}" for note in site.unread),
        *(f"no place here for what was decided about {text}" for text in lost[:LISTED]),
    ):
        errors.print(shown(text), style="red")
    for finding in [one for one in site if one.state is AltState.PERSON][:LISTED]:
        errors.print(_line(finding))
    _say_counts(site)
    if said := ", ".join(f"{count} {state}" for state, count in states.items() if count):
        print(f"drafts: {said}")
    if end.wrote:
        print(f"{len(end.wrote)} pages {'in the patch' if end.is_patch else 'written'}")
    if states["unreviewed"] and end.jobs:
        jobs = " ".join(f"--apply {job}" for job in end.jobs)
        print(f"to review: idefiq review   then, with the same words and options: {jobs}")


def _where(finding: SiteImage | None, failed: Result) -> str:
    if finding is None:
        return failed.custom_id or str(failed.index)
    return f"{finding.shown_page}:{finding.line}: {finding.place.source[:80]}"


_STATES = ("unreviewed", "accepted", "edited", "decorative", "rejected")
