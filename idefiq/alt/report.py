"""A report of a site's images, as JSON or CSV."""

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from idefiq.alt.drafts import DraftOutcome
from idefiq.alt.site import AltState, Site, SiteImage
from idefiq.errors import IdefiqError
from idefiq.reviews import Review

#: What a spreadsheet takes for the beginning of a formula.
_FORMULAS = frozenset("=+-@\t\r")
_COLUMNS = (
    "page",
    "line",
    "source",
    "role",
    "state",
    "problem",
    "reason",
    "alt",
    "new_alt",
    "review",
    "long_description",
    "language",
    "key",
)


def rows(
    site: Site, outcomes: Mapping[int, DraftOutcome], reviews: Sequence[Review]
) -> list[dict[str, Any]]:
    """Make a row for each image."""
    by_key = {review.custom_id: review for review in reviews}
    return [
        _row(finding, outcomes.get(index), by_key.get(finding.key))
        for index, finding in enumerate(site.findings)
    ]


def _row(finding: SiteImage, outcome: DraftOutcome | None, review: Review | None) -> dict[str, Any]:
    asked = finding.state is AltState.ASK
    return {
        "page": finding.shown_page,
        "line": finding.line,
        "source": finding.place.source,
        "role": finding.role.value,
        "state": finding.state.value,
        "problem": finding.problem,
        "reason": finding.reason,
        "alt": finding.place.alt,
        "new_alt": outcome.alt if outcome else review.text if asked and review else None,
        "review": review.state if asked and review else None,
        "long_description": review.long_description if asked and review else None,
        "language": review.language if asked and review else None,
        "key": finding.key if asked else None,
    }


def counts(site: Site) -> dict[str, int]:
    """Count images by state and by problem."""
    states = Counter(finding.state.value for finding in site)
    return {
        "pages": site.pages,
        "images": len(site.findings),
        **{state.value: states[state.value] for state in AltState},
        "notes": len(site.notes),
        "unread": len(site.unread),
    }


def check(path: Path) -> None:
    """Raise early if a report cannot be written.

    Raises:
        IdefiqError: It is neither .json nor .csv.
    """
    if path.suffix not in (".json", ".csv"):
        raise IdefiqError(f"{str(path)!r}: a report ends in .json or .csv")


def write(path: Path, site: Site, found: Sequence[Mapping[str, Any]]) -> None:
    """Write a report in the format of its suffix.

    Raises:
        IdefiqError: It cannot be written.
    """
    if path.suffix == ".json":
        notes = [
            {"page": note.page, "line": note.line, "what": note.what, "reason": note.reason}
            for note in (*site.notes, *site.unread)
        ]
        body = {"counts": counts(site), "images": list(found), "notes": notes}
        text = json.dumps(body, indent=2, ensure_ascii=False) + "\n"
    else:
        text = as_csv(_COLUMNS, found)
    try:
        path.write_text(text, encoding="utf-8", errors="replace", newline="")
    except OSError as error:
        raise IdefiqError(f"{str(path)!r} cannot be written: {error.strerror}") from error


def as_csv(columns: Sequence[str], found: Sequence[Mapping[str, Any]]) -> str:
    """Render rows as CSV that a spreadsheet reads as text and not as formulas."""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, extrasaction="ignore")
    writer.writeheader()
    for row in found:
        writer.writerow({name: defused(row.get(name)) for name in columns})
    return out.getvalue()


def defused(value: Any) -> Any:
    """Turn a value that a spreadsheet would run as a formula into text; `fused` reverts it."""
    return f"'{value}" if isinstance(value, str) and value[:1] in _FORMULAS else value


def fused(value: str) -> str:
    """Revert `defused`."""
    return value[1:] if value[:1] == "'" and value[1:2] in _FORMULAS else value
