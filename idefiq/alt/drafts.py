"""Asking the service for drafts, and what people have made of them.

    findings ─▶ one item for each key ─▶ a job ─▶ drafts ─▶ reviews
    reviews of a job ─▶ by key ─▶ Outcome for each finding

A job's items carry the keys of their images, so what was accepted finds its places again in the
site as it is then, on whatever machine it is.
"""

import hashlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from babel import Locale, UnknownLocaleError

from idefiq.alt.roles import Role
from idefiq.alt.site import Finding, State
from idefiq.client import Client
from idefiq.types import Item, Job, Review

#: Most characters of where an image is.
_PAGE = 2_000


@dataclass(frozen=True, slots=True)
class Asking:
    """How drafts are asked for.

    Attributes:
        with_context: Tell the model what the page says around each image.
        language: A language for all images, instead of that of each page.
    """

    model: str | None = None
    name: str = ""
    with_context: bool = True
    target_length: int | None = None
    long_descriptions: bool = False
    language: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is to be written for a finding.

    Attributes:
        alt: The text; empty for a decorative image.
        is_draft: Nobody has accepted it.
        language: What it is in, as a tag such as "en", if that is known.
    """

    alt: str
    is_draft: bool
    language: str = ""


def groups(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    """Findings that need a draft, by key."""
    found: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.state is State.ASK:
            found.setdefault(finding.key, []).append(finding)
    return found


def ask(client: Client, wanted: Mapping[str, Sequence[Finding]], asking: Asking) -> Job:
    """Submit a job with an item for each key. The same findings make the same job."""
    with tempfile.TemporaryDirectory(prefix="idefiq-alt-") as folder:
        references = _upload(client, wanted, Path(folder))
    items = [
        _item(key, some, reference, asking)
        for (key, some), reference in zip(wanted.items(), references, strict=True)
    ]
    defaults: Item = {"kind": "caption"}
    choices: dict[str, Any] = {}
    if asking.target_length:
        choices["target_length"] = asking.target_length
    if asking.long_descriptions:
        choices["long_description"] = True
    defaults["alt_text"] = choices
    said = repr((items, defaults, asking.model))
    return client.submit(
        items,
        model=asking.model,
        defaults=defaults,
        name=asking.name,
        idempotency_key=f"alt-{hashlib.sha256(said.encode()).hexdigest()[:32]}",
    )


def _upload(client: Client, wanted: Mapping[str, Sequence[Finding]], folder: Path) -> list[str]:
    """References of one picture for each key, in order."""
    paths: dict[str, Path] = {}
    references: list[str | None] = []
    for some in wanted.values():
        picture = some[0].picture
        assert picture
        references.append(picture.url)
        if picture.data is not None and picture.identity not in paths:
            paths[picture.identity] = folder / picture.identity
            paths[picture.identity].write_bytes(picture.data)
    uploaded = dict(zip(paths, client.upload(paths.values()), strict=True))
    found = []
    for some, reference in zip(wanted.values(), references, strict=True):
        identity = some[0].picture.identity if some[0].picture else ""
        found.append(reference or uploaded[identity])
    return found


def _item(key: str, some: Sequence[Finding], reference: str, asking: Asking) -> Item:
    first = some[0]
    more = len({finding.shown_page for finding in some}) - 1
    page = f"{first.shown_page}:{first.line}" + (f" and {more} more pages" if more else "")
    said: Item = {"page": page[:_PAGE], "role": first.role.value}
    if asking.with_context:
        said |= first.context.said()
    elif first.role is Role.FUNCTIONAL and first.context.destination:
        said["destination"] = first.context.destination
    item: Item = {"images": [reference], "custom_id": key, "alt_text": said}
    if language := asking.language or language_name(first.context.language):
        item["language"] = language
    return item


def language_name(tag: str) -> str:
    """The English name of a language by its tag: German for de-AT; empty if it has none."""
    try:
        return Locale.parse(tag.split("-")[0], sep="-").get_language_name("en") or ""
    except (ValueError, UnknownLocaleError, TypeError):
        return ""


def language_tag(name: str) -> str:
    """The tag of a language by its English name; empty if there is none."""
    wanted = name.casefold()
    languages = Locale("en").languages
    return next((tag for tag, known in languages.items() if known.casefold() == wanted), "")


def outcomes(
    findings: Iterable[Finding], reviews: Iterable[Review], *, with_drafts: bool
) -> dict[int, Outcome]:
    """What is to be written, by the findings' places in the list.

    Decorative images need nobody's text. Of the others, what people have accepted, edited or
    called decorative; and drafts, if they are wanted too.
    """
    by_key = {review.custom_id: review for review in reviews}
    found: dict[int, Outcome] = {}
    for index, finding in enumerate(findings):
        if finding.state is State.EMPTY:
            found[index] = Outcome("", is_draft=False)
        elif finding.state is State.ASK and (review := by_key.get(finding.key)):
            outcome = _outcome(finding, review, with_drafts=with_drafts)
            if outcome:
                found[index] = outcome
    return found


def _outcome(finding: Finding, review: Review, *, with_drafts: bool) -> Outcome | None:
    if review.state == "decorative":
        return Outcome("", is_draft=False)
    wanted = review.state in ("accepted", "edited") or (
        review.state == "unreviewed" and with_drafts
    )
    if not wanted or not review.text:
        return None
    tag = language_tag(review.language or "")
    own = finding.context.language.split("-")[0].lower()
    differs = bool(tag) and bool(own) and tag != own
    text = " ".join(review.text.split())
    return Outcome(text, review.state == "unreviewed", tag if differs else "")
