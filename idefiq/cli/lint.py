"""`idefiq alt lint`: check existing alternative texts."""

import sys
from typing import Annotated

import typer

from idefiq.alt import files, wording
from idefiq.alt.site import Site
from idefiq.alt.wording import TARGET_LENGTH, Issue
from idefiq.cli.common import AsJson, errors, print_json, shown
from idefiq.errors import IdefiqError


def lint(
    what: Annotated[
        list[str] | None,
        typer.Argument(help="Folders, pages, an .epub, URLs; - reads lines from stdin"),
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="Check this text; may be repeated")] = None,
    target_length: Annotated[
        int, typer.Option(min=20, max=1_000, help="Characters to aim at")
    ] = TARGET_LENGTH,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 for advice too")] = False,
    as_json: AsJson = False,
) -> None:
    """Check existing alternative texts. Exits with 1 if there is an error."""
    words = list(what or ())
    if not words and not text:
        raise IdefiqError("nothing to check: name pages, --text TEXT, or - for standard input")
    texts = [(f"--text {number}", alt_text) for number, alt_text in enumerate(text or (), 1)]
    if "-" in words:
        words.remove("-")
        texts += [(f"line {n}", line.rstrip("\n")) for n, line in enumerate(sys.stdin, 1)]
    found = [
        (where, alt_text, issue)
        for where, alt_text in texts
        for issue in wording.lint(alt_text, target_length=target_length)
    ]
    if words:
        site = Site([files.named(word) for word in words])
        found += _of_site(site, target_length)
    for where, alt_text, issue in found:
        if as_json:
            record = {"where": where, "text": alt_text, "code": issue.code}
            print_json({**record, "message": issue.message, "error": issue.is_error})
        else:
            print(shown(f"{where}: {issue.code}: {issue.message}"))
    if any(issue.is_error or strict for _, _, issue in found):
        raise typer.Exit(1)


def _of_site(site: Site, target_length: int) -> list[tuple[str, str, Issue]]:
    found = []
    for finding in site:
        if not finding.place.alt:
            continue
        near = [finding.context.caption] if finding.context.caption else []
        for issue in wording.lint(finding.place.alt or "", near=near, target_length=target_length):
            where = f"{finding.shown_page}:{finding.line}"
            found.append((where, finding.place.alt or "", issue))
    return found


def lint_alt(
    what: Annotated[list[str] | None, typer.Argument()] = None,
    text: Annotated[list[str] | None, typer.Option()] = None,
    target_length: Annotated[int, typer.Option(min=20, max=1_000)] = TARGET_LENGTH,
    strict: Annotated[bool, typer.Option("--strict")] = False,
    as_json: AsJson = False,
) -> None:
    """Run `idefiq alt lint` under its name of release 0.1."""
    errors.print("warning: `lint-alt` is called `alt lint` since 0.2", style="yellow")
    lint(what, text, target_length, strict, as_json)
