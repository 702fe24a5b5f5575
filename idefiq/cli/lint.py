"""`idefiq lint-alt`: what is wrong with text alternatives that are there."""

import sys
from typing import Annotated

import typer

from idefiq.alt import files
from idefiq.alt.site import Site
from idefiq.alt.wording import TARGET_LENGTH, Issue, lint
from idefiq.cli.common import AsJson, say_json, shown
from idefiq.types import IdefiqError


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("lint-alt")(lint_alt)


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
            print(shown(f"{where}: {objection.code}: {objection.message}"))
    if any(objection.is_error or strict for _, _, objection in found):
        raise typer.Exit(1)


def _of_site(site: Site, target_length: int) -> list[tuple[str, str, Issue]]:
    found = []
    for finding in site:
        if not finding.place.alt:
            continue
        near = [finding.context.caption] if finding.context.caption else []
        for objection in lint(finding.place.alt or "", near=near, target_length=target_length):
            where = f"{finding.shown_page}:{finding.line}"
            found.append((where, finding.place.alt or "", objection))
    return found
