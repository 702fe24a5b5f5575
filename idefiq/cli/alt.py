"""`idefiq alt` and `idefiq lint-alt`: text alternatives of the images of a site."""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from idefiq.alt import drafts, files, report
from idefiq.alt import write as writing
from idefiq.alt.drafts import Asking
from idefiq.alt.site import Choices, Finding, Site, State
from idefiq.alt.wording import TARGET_LENGTH, Objection, lint
from idefiq.cli.common import AsJson, Key, Url, errors, say_json
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
    """Add the commands of this module."""
    app.command("alt")(alt)
    app.command("lint-alt")(lint_alt)


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
    url: Url = None,
    api_key: Key = None,
) -> None:
    """Find images without a proper text alternative, draft one, and write what was accepted."""
    site = Site([files.named(word, root or ()) for word in what], Choices(force, describe_empty))
    if not site.pages and not site.unread:
        raise IdefiqError(f"no pages in {', '.join(what)}: looked for {' '.join(files.PAGES)}")
    if check or dry_run:
        _write_report(report_to, site, [])
        _say_what_there_is(site, as_json=as_json)
        if check and (site.open or site.unread):
            raise typer.Exit(1)
        return
    asking = Asking(
        model=model,
        name=f"alt text of {', '.join(what)}"[:200],
        with_context=not no_context,
        target_length=target_length,
        long_descriptions=long_descriptions,
        language=language,
    )
    with Client(url, api_key) as client:
        jobs = list(apply or ()) or _asked(client, site, asking)
        found = [review for job in jobs for review in client.reviews(job)]
        failed = [r for job in jobs for r in client.results(job) if r.state == "failed"]
    outcomes = drafts.outcomes(site.findings, found, with_drafts=with_drafts)
    changed = writing.changes(site.findings, outcomes)
    if patch:
        _write_patch(patch, writing.patch(changed))
    elif write or apply:
        writing.write(changed)
    _write_report(report_to, site, found, report.rows(site, outcomes, found))
    wrote = [change.page for change in changed] if patch or write or apply else []
    with contextlib.redirect_stdout(sys.stderr if str(patch) == "-" else sys.stdout):
        _say_the_end(site, jobs, found, failed, wrote, as_json=as_json)
    if failed or site.unread:
        raise typer.Exit(1)


def _asked(client: Client, site: Site, asking: Asking) -> list[str]:
    wanted = drafts.groups(site)
    if not wanted:
        return []
    job = drafts.ask(client, wanted, asking)
    errors.print(f"{job.id} drafts {len(wanted)} texts for {_asked_about(site)} images")
    return [_finished(client, job).id]


def _finished(client: Client, job: Job) -> Job:
    try:
        return client.wait(job)
    except KeyboardInterrupt:
        errors.print(f"stopped: {job.id} goes on, and the same command waits for it again")
        raise


def _asked_about(site: Site) -> int:
    return sum(finding.state is State.ASK for finding in site)


def _write_patch(path: Path, data: bytes) -> None:
    if str(path) == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    else:
        path.write_bytes(data)


def _write_report(
    path: Path | None,
    site: Site,
    found: Sequence[Review],
    rows: Sequence[dict[str, Any]] | None = None,
) -> None:
    if path:
        report.write(path, site, report.rows(site, {}, found) if rows is None else rows)


def _say_what_there_is(site: Site, *, as_json: bool) -> None:
    if as_json:
        say_json({**report.counts(site), "to_ask": len(drafts.groups(site))})
        return
    for finding in site.open[:LISTED]:
        print(_line(finding))
    if len(site.open) > LISTED:
        print(f"… and {len(site.open) - LISTED} more: --report has all")
    for note in site.unread:
        print(f"{note.page}: not read: {note.reason}")
    _say_counts(site)


def _line(finding: Finding) -> str:
    where = f"{finding.shown_page}:{finding.line}"
    what = finding.place.source or finding.place.element.name
    problem = finding.problem.replace("_", " ") or "asked for again"
    return f"{where}: {problem}, {finding.role}: {what[:80]} ({finding.reason})"


def _say_counts(site: Site) -> None:
    counts = report.counts(site)
    print(
        f"{counts['images']} images on {counts['pages']} pages: {counts['ok']} are fine,"
        f' {counts["ask"]} need a text, {counts["empty"]} are decorative and need alt="",'
        f" {counts['person']} need a person; {counts['notes']} notes"
    )


def _say_the_end(
    site: Site,
    jobs: Sequence[str],
    found: Sequence[Review],
    failed: Sequence[Result],
    wrote: Sequence[str],
    *,
    as_json: bool,
) -> None:
    states = {state: sum(one.state == state for one in found) for state in _STATES}
    if as_json:
        told = {**report.counts(site), "jobs": list(jobs), "reviews": states, "written": wrote}
        say_json({**told, "failed": [one.error for one in failed]})
        return
    keys = {finding.key: finding for finding in site if finding.state is State.ASK}
    for one in failed:
        where = keys[one.custom_id].shown_page if one.custom_id in keys else one.custom_id
        errors.print(f"failed: {where}: {one.error}", style="red")
    for note in site.unread:
        errors.print(f"not read: {note.page}: {note.reason}", style="red")
    person = [finding for finding in site if finding.state is State.PERSON]
    for finding in person[:LISTED]:
        errors.print(f"yours to write: {_line(finding)}")
    _say_counts(site)
    said = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    if said:
        print(f"drafts: {said}")
    if wrote:
        print(f"{len(wrote)} pages changed")
    if states["unreviewed"] and jobs:
        print(f"to review: idefiq review {jobs[0]}   then: idefiq alt … --apply {jobs[0]}")


_STATES = ("unreviewed", "accepted", "edited", "decorative", "rejected")


# ---- the linter ---------------------------------------------------------------------


def lint_alt(
    what: Annotated[
        list[str] | None, typer.Argument(help="Folders, pages, an .epub, URLs; - reads lines")
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="A text instead of pages; repeatable")
    ] = None,
    target_length: Annotated[
        int, typer.Option(min=20, max=1_000, help="Characters aimed at")
    ] = TARGET_LENGTH,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 for advice too, not only for errors")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with text alternatives that are there; exit with 1 if something is."""
    words = list(what or ())
    if not words and not text:
        raise IdefiqError("say what to look at: pages, --text, or - for lines")
    texts = [(f"--text {number}", said) for number, said in enumerate(text or (), 1)]
    if "-" in words:
        words.remove("-")
        texts += [(f"line {n}", line.rstrip("\n")) for n, line in enumerate(sys.stdin, 1)]
    found = [
        (where, said, objection)
        for where, said in texts
        for objection in lint(said, target_length=target_length)
    ]
    if words:
        site = Site([files.named(word) for word in words])
        found += _of_site(site, target_length)
    for where, said, objection in found:
        if as_json:
            told = {"where": where, "text": said, "code": objection.code}
            say_json({**told, "message": objection.message, "error": objection.is_error})
        else:
            print(f"{where}: {objection.code}: {objection.message}")
    if any(objection.is_error or strict for _, _, objection in found):
        raise typer.Exit(1)


def _of_site(site: Site, target_length: int) -> list[tuple[str, str, Objection]]:
    found = []
    for finding in site:
        if not (finding.place.alt or "").strip():
            continue
        near = [finding.context.caption] if finding.context.caption else []
        for objection in lint(finding.place.alt or "", near=near, target_length=target_length):
            where = f"{finding.shown_page}:{finding.line}"
            found.append((where, finding.place.alt or "", objection))
    return found
