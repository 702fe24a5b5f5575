"""Writes texts into pages, in place or as a patch; nothing else of a page changes.

outcomes ─▶ edits of each page ─▶ its text ─▶ its bytes, or the lines of a unified diff
"""

import difflib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from idefiq.alt.drafts import DraftOutcome
from idefiq.alt.files import Book, Files, Web
from idefiq.alt.site import SiteImage
from idefiq.alt.tags import apply
from idefiq.alt.text import PageText
from idefiq.errors import IdefiqError


@dataclass(frozen=True)
class Change:
    """A page before and after."""

    files: Files
    page: str
    before: PageText
    after: str

    @property
    def data(self) -> bytes:
        """The page's new bytes."""
        return self.before.bytes_of(self.after)


def changes(findings: Sequence[SiteImage], outcomes: Mapping[int, DraftOutcome]) -> list[Change]:
    """Return the pages that change, as they are now and as they will be.

    Raises:
        IdefiqError: A page is not any more as it was when it was read.
    """
    of_page: dict[tuple[int, str], list[int]] = {}
    for index in outcomes:
        finding = findings[index]
        of_page.setdefault((id(finding.files), finding.page), []).append(index)
    return [
        change
        for indexes in of_page.values()
        if (change := _change([(findings[index], outcomes[index]) for index in indexes]))
    ]


def _change(some: Sequence[tuple[SiteImage, DraftOutcome]]) -> Change | None:
    files, page = some[0][0].files, some[0][0].page
    data = files.read(page)
    if hashlib.sha256(data).hexdigest() != some[0][0].page_digest:
        raise IdefiqError(f"{files.shown(page)} was changed meanwhile: try again")
    before = PageText.of(data, page)
    edits = [
        edit
        for finding, outcome in some
        if finding.place.spot
        for edit in finding.place.spot.edits(
            before.text, outcome.alt, is_draft=outcome.is_draft, language=outcome.language
        )
    ]
    try:
        after = apply(before.text, edits)
    except ValueError as error:
        raise IdefiqError(f"{files.shown(page)} cannot be changed: {error}") from error
    return Change(files, page, before, after) if after != before.text else None


def write(changed: Sequence[Change]) -> None:
    """Write pages in place, each completely.

    Raises:
        IdefiqError: Some are on the web; then none is written.
        OSError: One cannot be written; those before it are.
    """
    for change in changed:
        if isinstance(change.files, Web):
            change.files.write({})
    of_files: dict[int, list[Change]] = {}
    for change in changed:
        of_files.setdefault(id(change.files), []).append(change)
    for some in of_files.values():
        some[0].files.write({change.page: change.data for change in some})


def patch(changed: Sequence[Change]) -> bytes:
    """Render the changes as a unified diff for `git apply` and `patch -p1`.

    Raises:
        IdefiqError: A page is packed in an EPUB, or on the web.
    """
    pieces: list[bytes] = []
    for change in changed:
        if isinstance(change.files, Book | Web):
            raise IdefiqError(f"{change.files.name} cannot be patched: only pages in folders can")
        pieces += _diff(change)
    return b"".join(pieces)


def _diff(change: Change) -> Iterator[bytes]:
    before, after = (text.split("\n") for text in (change.before.text, change.after))
    lines = difflib.unified_diff(
        [f"{line}\n" for line in before[:-1]] + [before[-1]] * bool(before[-1]),
        [f"{line}\n" for line in after[:-1]] + [after[-1]] * bool(after[-1]),
        f"a/{change.page}",
        f"b/{change.page}",
    )
    for number, line in enumerate(lines):
        is_name = number < 2
        yield line.encode(errors="surrogateescape") if is_name else change.before.bytes_of(line)
        if not line.endswith("\n"):
            yield b"\n\\ No newline at end of file\n"
