"""What `idefiq alt` prints: images that need something, what was drafted, what was written."""

from collections.abc import Sequence
from dataclasses import dataclass

from idefiq.alt import drafts, report
from idefiq.alt.site import AltState, Site, SiteImage
from idefiq.cli.common import errors, print_json, shown
from idefiq.reviews import Review
from idefiq.types import Result

#: Images listed on the terminal; a report has all.
LISTED = 50


@dataclass(frozen=True)
class Outcome:
    """What `draft` or `apply` has done."""

    jobs: Sequence[str]
    found: Sequence[Review]
    failed: Sequence[Result] = ()
    #: Decided drafts whose image is not on this site any more.
    lost: Sequence[Review] = ()
    wrote: Sequence[str] = ()
    is_patch: bool = False


def print_findings(site: Site, *, as_json: bool) -> None:
    """Print the images that need something, and the counts."""
    if as_json:
        print_json({**report.counts(site), "to_ask": len(drafts.groups(site))})
        return
    for finding in site.open[:LISTED]:
        print(_line(finding))
    if len(site.open) > LISTED:
        print(f"… and {len(site.open) - LISTED} more; --report lists all")
    for note in site.notes[:LISTED]:
        print(shown(f"{note.page}:{note.line}: note: {note.what[:80]}: {note.reason}"))
    for note in site.unread:
        print(shown(f"{note.page}: cannot be read: {note.reason}"))
    _print_counts(site)


def _line(finding: SiteImage) -> str:
    what = (finding.place.source or finding.place.element.name)[:80]
    problem = finding.problem.replace("_", " ") or "has a text already"
    if finding.state is AltState.PERSON:
        problem = f"needs a person, {problem}"
    line = f"{problem}, {finding.role}: {what} ({finding.reason})"
    return shown(f"{finding.shown_page}:{finding.line}: {line}")


def _print_counts(site: Site) -> None:
    counts = report.counts(site)
    print(
        f"{counts['images']} images on {counts['pages']} pages: {counts['ok']} are fine,"
        f' {counts["ask"]} need a text, {counts["empty"]} are decorative and need alt="",'
        f" {counts['person']} need a person; {counts['notes']} notes"
    )


def print_outcome(site: Site, end: Outcome, *, as_json: bool) -> None:
    """Print what failed, what needs a person, the counts, and the next step."""
    states = {state: sum(one.state == state for one in end.found) for state in _STATES}
    asked = [finding for finding in site if finding.state is AltState.ASK]
    of_key = {finding.key: finding for finding in reversed(asked)}  # the first of each
    failed = [
        f"{_where(of_key.get(one.custom_id or ''), one)}: {one.error or one.state}"
        for one in end.failed
    ]
    lost = [f"{one.page} {one.context.get('source', '')}" for one in end.lost]
    if as_json:
        record = {**report.counts(site), "jobs": list(end.jobs), "reviews": states}
        print_json({**record, "written": list(end.wrote), "failed": failed, "without_place": lost})
        return
    for text in (
        *(f"failed: {text}" for text in failed),
        *(f"cannot be read: {note.page}: {note.reason}" for note in site.unread),
        *(f"no image on this site for the decision about {text}" for text in lost[:LISTED]),
    ):
        errors.print(shown(text), style="red")
    for finding in [one for one in site if one.state is AltState.PERSON][:LISTED]:
        errors.print(_line(finding))
    _print_counts(site)
    if line := ", ".join(f"{count} {state}" for state, count in states.items() if count):
        print(f"drafts: {line}")
    if end.wrote:
        print(f"{len(end.wrote)} pages {'in the patch' if end.is_patch else 'written'}")
    if states["unreviewed"] and end.jobs:
        print("next: `idefiq review`, then `idefiq alt apply` with the same pages and options")


def _where(finding: SiteImage | None, failed: Result) -> str:
    if finding is None:
        return failed.custom_id or str(failed.index)
    return f"{finding.shown_page}:{finding.line}: {finding.place.source[:80]}"


_STATES = ("unreviewed", "accepted", "edited", "decorative", "rejected")
