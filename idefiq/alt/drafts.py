"""Drafts: requests to the service, and what people have decided about them.

    findings ─▶ one item for each key ─▶ a job ─▶ drafts ─▶ reviews
    reviews of a job ─▶ by key ─▶ Outcome for each finding

A job's items carry the keys of their images, so what was accepted finds its places again in the
site as it is then, on whatever machine it is.
"""

import hashlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from babel import Locale, UnknownLocaleError

from idefiq.alt.roles import ImageRole
from idefiq.alt.site import AltState, SiteImage
from idefiq.client import Client
from idefiq.reviews import Review
from idefiq.types import Item, Job

#: Most characters of where an image is.
MAX_PAGE_CHARACTERS, MAX_SOURCE_CHARACTERS = 500, 2_000
#: Keys asked about in one request.
_KEYS = 100


@dataclass(frozen=True, slots=True)
class Asking:
    """Options of drafts.

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
class DraftOutcome:
    """Text to write for an image.

    Attributes:
        alt: The text; empty for a decorative image.
        is_draft: Nobody has accepted it.
        language: What it is in, as a tag such as "en", if that is known.
    """

    alt: str
    is_draft: bool
    language: str = ""


def groups(findings: Iterable[SiteImage]) -> dict[str, list[SiteImage]]:
    """Group images that need a draft by key."""
    found: dict[str, list[SiteImage]] = {}
    for finding in findings:
        if finding.state is AltState.ASK:
            found.setdefault(finding.key, []).append(finding)
    return found


def ask(client: Client, wanted: Mapping[str, Sequence[SiteImage]], asking: Asking) -> Job:
    """Submit a job with an item for each key. The same images make the same job."""
    with tempfile.TemporaryDirectory(prefix="idefiq-alt-") as folder:
        references = _upload(client, wanted, Path(folder))
    items = [
        item_of(key, some, reference, asking)
        for (key, some), reference in zip(wanted.items(), references, strict=True)
    ]
    defaults: Item = {"kind": "caption"}
    choices: dict[str, Any] = {}
    if asking.target_length:
        choices["target_length"] = asking.target_length
    if asking.long_descriptions:
        choices["long_description"] = True
    defaults["alt_text"] = choices
    item_fields = repr((items, defaults, asking.model, asking.name))
    key: str | None = f"alt-{hashlib.sha256(item_fields.encode()).hexdigest()[:32]}"
    while True:
        job = client.submit(
            items, model=asking.model, defaults=defaults, name=asking.name, idempotency_key=key
        )
        if key is None or not job.is_final or job.counts.succeeded == job.counts.total:
            return job
        key = None  # these failed or were cancelled before: that was long enough ago to ask again


def drafted(client: Client, keys: Iterable[str]) -> list[Review]:
    """Return earlier drafts of some keys, whenever and from wherever they were requested."""
    waiting = iter(keys)
    found: list[Review] = []
    while some := list(islice(waiting, _KEYS)):
        found += client.reviews(custom_ids=some)
    return found


def _where(some: Sequence[SiteImage]) -> str:
    """Name the image of its page, and the other pages that it is on."""
    first = some[0]
    source = first.place.source
    named = "an image within the page" if source.startswith("data:") else source
    others = list(dict.fromkeys(one.shown_page for one in some[1:]))
    others = [page for page in others if page != first.shown_page]
    also = f"; also on {', '.join(others)}" if others else ""
    return f"{named}, line {first.line}{also}"


def _upload(client: Client, wanted: Mapping[str, Sequence[SiteImage]], folder: Path) -> list[str]:
    """Upload one image for each key. Returns references in order."""
    paths: dict[str, Path] = {}
    references: list[str | None] = []
    for some in wanted.values():
        picture = some[0].picture
        assert picture
        references.append(picture.url)
        if picture.read and picture.identity not in paths:
            paths[picture.identity] = folder / picture.identity
            paths[picture.identity].write_bytes(picture.read())
    uploaded = dict(zip(paths, client.upload(paths.values()), strict=True))
    found = []
    for some, reference in zip(wanted.values(), references, strict=True):
        identity = some[0].picture.identity if some[0].picture else ""
        found.append(reference or uploaded[identity])
    return found


def item_of(key: str, some: Sequence[SiteImage], reference: str, asking: Asking) -> Item:
    """Make the item that asks for a text: of images with one key, where the first is."""
    first = some[0]
    item_fields: Item = {
        "page": first.shown_page[:MAX_PAGE_CHARACTERS],
        "source": _where(some)[:MAX_SOURCE_CHARACTERS],
        "role": first.role.value,
    }
    if asking.with_context:
        item_fields |= first.context.as_alt_text()
    elif first.role is ImageRole.FUNCTIONAL and first.context.destination:
        item_fields["destination"] = first.context.destination
    item: Item = {"images": [reference], "custom_id": key, "alt_text": item_fields}
    if language := asking.language or language_name(first.context.language):
        item["language"] = language
    return item


@lru_cache(256)
def language_name(tag: str) -> str:
    """English name of a language by its tag: German for de-AT; empty if unknown."""
    try:
        return Locale.parse(tag.split("-")[0], sep="-").get_language_name("en") or ""
    except (ValueError, UnknownLocaleError, TypeError):
        return ""


@lru_cache(256)
def language_tag(name: str) -> str:
    """Tag of a language by its English name; empty if unknown."""
    wanted = name.casefold()
    languages = Locale("en").languages
    return next((tag for tag, known in languages.items() if known.casefold() == wanted), "")


def outcomes(
    findings: Iterable[SiteImage], reviews: Iterable[Review], *, with_drafts: bool
) -> dict[int, DraftOutcome]:
    """Return the texts to write, by the images' positions in the list.

    Decorative images need no text. For the others, these are the texts that people accepted or
    edited, decisions that an image is decorative, and unreviewed drafts if requested.
    """
    # Of several about one key, a decided one counts, and of those the last.
    ordered = sorted(reviews, key=lambda one: (one.state != "unreviewed", str(one.reviewed_at)))
    by_key = {review.custom_id: review for review in ordered}
    found: dict[int, DraftOutcome] = {}
    for index, finding in enumerate(findings):
        if finding.state is AltState.EMPTY:
            found[index] = DraftOutcome("", is_draft=False)
        elif finding.state is AltState.ASK and (review := by_key.get(finding.key)):
            outcome = _outcome(finding, review, with_drafts=with_drafts)
            if outcome:
                found[index] = outcome
    return found


def _outcome(finding: SiteImage, review: Review, *, with_drafts: bool) -> DraftOutcome | None:
    if review.state == "decorative":
        return DraftOutcome("", is_draft=False)
    wanted = review.state in ("accepted", "edited") or (
        review.state == "unreviewed" and with_drafts
    )
    if not wanted or not review.text:
        return None
    tag = language_tag(review.language or "")
    own = finding.context.language.split("-")[0].lower()
    differs = bool(tag) and bool(own) and tag != own
    text = "".join(letter for letter in " ".join(review.text.split()) if letter.isprintable())
    return DraftOutcome(text, review.state == "unreviewed", tag if differs else "")
