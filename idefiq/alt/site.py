"""A site: every image of its pages, its role, and whether it needs a text.

    files ─▶ page ─▶ Document ─▶ Finding for each image: role, context, picture, state
                                    ok          a person's text, or rightly none
                                    empty       decorative: alt="" is to be written
                                    ask         a text is needed, and can be drafted
                                    person      a text is needed, and nobody but a person can tell

Images of one picture, role, destination and language have one key, one text and one review.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from urllib.parse import urldefrag, urljoin

from idefiq.alt import context, markdown, places
from idefiq.alt.code import TemplateCode
from idefiq.alt.context import Context, PageContext
from idefiq.alt.files import Files
from idefiq.alt.image_source import ImageSource, image_source
from idefiq.alt.markdown import MarkdownSpot
from idefiq.alt.places import Document, Place
from idefiq.alt.roles import ImageRole, RoleDecision, path_of, sort
from idefiq.alt.text import LineNumbers, PageText
from idefiq.alt.tree import html_tree, xml_tree
from idefiq.alt.wording import is_file_name, is_placeholder
from idefiq.alt.writable import checked
from idefiq.errors import IdefiqError


class AltState(StrEnum):
    """Whether an image needs a text."""

    OK = "ok"
    EMPTY = "empty"
    ASK = "ask"
    PERSON = "person"


@dataclass(frozen=True, slots=True)
class SiteOptions:
    """Options for all images of a site.

    Attributes:
        force: Ask about images that have a person's text too.
        describe_empty: Ask about images whose alternative is empty, unless they are decorative.
    """

    force: bool = False
    describe_empty: bool = False


@dataclass(frozen=True)
class SiteImage:
    """An image of a page.

    Attributes:
        page: The page's name within `files`.
        page_digest: SHA-256 of its bytes as they were read.
        leads: Where it leads, the same for the same place; empty if it leads nowhere.
        problem: What is wrong with its alternative: missing, empty, blank (white space),
            file_name, placeholder, draft; or nothing.
        reason: Why it has its role, or why only a person can tell.
    """

    files: Files
    page: str
    page_digest: str
    line: int
    place: Place
    role: ImageRole
    state: AltState
    problem: str
    reason: str
    context: Context
    leads: str
    picture: ImageSource | None

    @property
    def shown_page(self) -> str:
        """The page's name for people."""
        return self.files.shown(self.page)

    @cached_property
    def key(self) -> str:
        """Key of what is described and reviewed once."""
        identity = self.picture.identity if self.picture else ""
        joined = "\0".join([identity, self.role, self.leads, self.context.language])
        return hashlib.sha256(joined.encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class SiteRemark:
    """Something on a page that is reported, and not written."""

    page: str
    line: int
    what: str
    reason: str


class Site:
    """The pages that were named, parsed.

    Args:
        sources: Folders, EPUBs and pages of the web.
        choices: What somebody decides for all images.
    """

    def __init__(self, sources: Sequence[Files], choices: SiteOptions | None = None) -> None:
        self._sources = sources
        self._choices = choices or SiteOptions()
        self.findings: list[SiteImage] = []
        self.notes: list[SiteRemark] = []
        #: Pages that could not be read, and why.
        self.unread: list[SiteRemark] = []
        self.pages = 0
        self._titles: dict[tuple[str, str], str] = {}
        for files in sources:
            for name in files.pages():
                self._read(files, name)

    def _read(self, files: Files, name: str) -> None:
        shown = files.shown(name)
        try:
            findings, notes = self._found(files, name)
        except IdefiqError as error:
            self.unread.append(SiteRemark(shown, 0, "page", str(error)))
        except Exception as error:  # a stranger's page must not end the look at all others
            why = f"it is not understood ({type(error).__name__}: {error})"
            self.unread.append(SiteRemark(shown, 0, "page", why))
        else:
            self.pages += not name.lower().endswith(".css")
            self.findings += findings
            self.notes += notes

    def _found(self, files: Files, name: str) -> tuple[list[SiteImage], list[SiteRemark]]:
        data = files.read(name)
        text = PageText.of(data, name).text
        document = _document(text, name)
        page = document.page
        if not page.language:
            page = replace(page, language=files.language)
        lines, digest = LineNumbers(text), hashlib.sha256(data).hexdigest()
        code = TemplateCode(text)
        # Where code has quotes of its own, an HTML parser sees tags that are not there.
        real = {one.offset: one for one in _document(code.masked, name).places} if code else None
        findings = [
            self._finding(files, name, digest, checked(place, text, code, real), page, lines)
            for place in document.places
        ]
        notes = [
            SiteRemark(files.shown(name), lines.of(remark.offset), remark.what, remark.reason)
            for remark in document.remarks
        ]
        return findings, notes

    def _finding(
        self,
        files: Files,
        name: str,
        digest: str,
        place: Place,
        page: PageContext,
        lines: LineNumbers,
    ) -> SiteImage:
        sorted_as = sort(place.element, place.source)
        around = context.of_image(place.element, sorted_as, page)
        leads = ""
        if sorted_as.role is ImageRole.FUNCTIONAL and sorted_as.control:
            leads = _resolved(name, sorted_as.control.get("href")) or around.destination
            around = self._with_title(files, leads, around)
        problem = _problem(place)
        state, reason = self._state(place, sorted_as, problem)
        picture = None
        if state is AltState.ASK:
            try:
                picture = image_source(files, name, place.source)
            except IdefiqError as error:
                state, reason = AltState.PERSON, str(error)
        return SiteImage(
            files=files,
            page=name,
            page_digest=digest,
            line=lines.of(place.offset),
            place=place,
            role=sorted_as.role,
            state=state,
            problem=problem,
            reason=reason,
            context=around,
            leads=leads,
            picture=picture,
        )

    def _state(self, place: Place, sorted_as: RoleDecision, problem: str) -> tuple[AltState, str]:
        if (settled := _settled(place, problem)) is not None:
            return settled
        if sorted_as.role is ImageRole.DECORATIVE:
            is_empty = problem == "empty" or _is_empty_when_made(place)
            return (AltState.OK if is_empty or not problem else AltState.EMPTY), sorted_as.reason
        if problem == "empty" and sorted_as.role is ImageRole.INFORMATIVE:
            if self._choices.describe_empty:
                return AltState.ASK, sorted_as.reason
            return AltState.OK, "its author says that it is decorative"
        if problem or self._choices.force:
            return AltState.ASK, sorted_as.reason
        return AltState.OK, sorted_as.reason

    def _with_title(self, files: Files, leads: str, around: Context) -> Context:
        """Give a link to a page of the site that page's title as its destination."""
        if not leads.startswith("/"):
            return around
        target = path_of(leads).lstrip("/")
        candidates = (target, f"{target}index.html", f"{target}/index.html", f"{target}.html")
        title = next((t for one in candidates if (t := self._title(files, one))), "")
        joined = f"{title} ({around.destination})" if title else around.destination
        return replace(around, destination=joined)

    def _title(self, files: Files, name: str) -> str:
        key = (files.name, name)
        if key not in self._titles and name.lower().endswith((".html", ".htm", ".xhtml", ".md")):
            try:
                text = PageText.of(files.read(name), name).text
                self._titles[key] = _document(text, name).page.title
            except IdefiqError:
                self._titles[key] = ""
        return self._titles.get(key, "")

    def __iter__(self) -> Iterator[SiteImage]:
        return iter(self.findings)

    @property
    def open(self) -> list[SiteImage]:
        """Images that need something."""
        return [finding for finding in self.findings if finding.state is not AltState.OK]


def _document(text: str, name: str) -> Document:
    # Of a page of the web, that of its path: gov.md is a country's.
    suffix = (path_of(name) if "://" in name else name).lower().rpartition(".")[2]
    if suffix in ("md", "markdown"):
        return markdown.read(text)
    if suffix == "css":
        return Document(PageContext("", "", ()), (), places.backgrounds(text))
    is_xml = suffix == "xhtml" or text.lstrip("\ufeff \r\n").startswith("<?xml")
    root = xml_tree(text) if is_xml else html_tree(text)
    found, remarks = places.in_tags(root)
    return Document(PageContext.of(root), found, remarks)


def _is_empty_when_made(place: Place) -> bool:
    """True if a generator gives the image an empty alternative: Markdown without text."""
    return place.alt is None and isinstance(place.spot, MarkdownSpot)


def _settled(place: Place, problem: str) -> tuple[AltState, str] | None:
    """State and reason of an image that gets no draft, whatever its role."""
    named = place.element.get("aria-label") or place.element.get("aria-labelledby")
    if named and problem in ("missing", "empty"):
        return AltState.OK, "it has a label"
    if place.is_made:
        return AltState.OK, "a template makes its text"
    if place.obstacle and problem == "empty":
        return AltState.OK, "its author says that it is decorative"
    if place.obstacle:
        there = AltState.PERSON, f"{place.obstacle}: write its text there"
        return there if problem else (AltState.OK, "it has a text")
    if place.element.name == "area":
        needs = AltState.PERSON if problem else AltState.OK
        return needs, "a part of an image map: say where it leads"
    if place.spot is None:
        return AltState.PERSON, "it is not written in the page itself"
    return None


def _problem(place: Place) -> str:
    if place.is_made:
        return ""
    if place.is_draft:
        return "draft"
    if place.alt is None:
        return "missing"
    if not place.alt.strip():
        return "blank" if place.alt else "empty"
    if is_placeholder(place.alt):
        return "placeholder"
    return "file_name" if is_file_name(place.alt) else ""


def _resolved(page: str, href: str) -> str:
    """Resolve a link of a page to a path of the site, or to a URL."""
    try:
        url = urldefrag(href)[0].strip()
        return urljoin(page if "://" in page else f"/{page}", url) if url else ""
    except ValueError:
        return href
