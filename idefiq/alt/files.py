"""Where pages and their images are: a folder, an EPUB, or the web.

All name pages and pictures by paths with slashes; but for the web, pages are written back whole.
"""

import os
import posixpath
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import urljoin

import httpx2

from idefiq.alt.roles import path_of
from idefiq.errors import IdefiqError

PAGES = (".html", ".htm", ".xhtml", ".md", ".markdown", ".css")
#: Folders without pages written by hand.
_SKIPPED = frozenset({"node_modules", "__pycache__", "venv"})
_MAX_PATH_CHARACTERS = 2_000
MAX_IMAGE_BYTES = 50 * 2**20  # larger ones are no pictures of pages
_TIMEOUT_SECONDS = 30.0


class Files(Protocol):
    """A folder, an EPUB or the web."""

    #: How it was named.
    name: str
    #: Of pages that do not say theirs, as a tag; empty if nothing says so.
    language: str

    def pages(self) -> Iterator[str]:
        """Names of the pages and style sheets, in order."""

    def shown(self, page: str) -> str:
        """A page's name for people."""

    def read(self, name: str) -> bytes:
        """Read the bytes of a page.

        Raises:
            IdefiqError: It cannot be read.
        """

    def picture(self, page: str, source: str) -> bytes | str:
        """Return an image of a page: its bytes, or its URL.

        Raises:
            IdefiqError: There is none, or it is not to be read.
        """

    def write(self, pages: Mapping[str, bytes]) -> None:
        """Write pages back.

        Raises:
            IdefiqError: They cannot be written here.
        """


class Folder:
    """Pages below a folder, or one of them.

    Args:
        path: A folder or a page.
        roots: Where paths that begin with a slash, and others that lead nowhere, are looked for;
            the folder itself if there are none.
    """

    def __init__(self, path: Path, roots: Sequence[Path] = ()) -> None:
        self.name, self.language = str(path), ""
        self._only = None if path.is_dir() else path.name
        self._top = path if path.is_dir() else path.parent
        self._roots = [*roots, self._top]
        self._allowed = [root.resolve() for root in self._roots]

    def pages(self) -> Iterator[str]:
        """See Files."""
        if self._only:
            yield self._only
            return
        for folder, folders, names in os.walk(self._top):
            folders[:] = sorted(n for n in folders if n[0] != "." and n not in _SKIPPED)
            for name in sorted(names):
                path = Path(folder) / name
                if name.lower().endswith(PAGES) and name[0] != "." and self._is_allowed(path):
                    yield path.relative_to(self._top).as_posix()

    def _is_allowed(self, path: Path) -> bool:
        """True if a file is below the folders after links are resolved."""
        return any(path.resolve().is_relative_to(root) for root in self._allowed)

    def shown(self, page: str) -> str:
        """See Files."""
        return page

    def read(self, name: str) -> bytes:
        """See Files."""
        try:
            return (self._top / name).read_bytes()
        except OSError as error:
            raise IdefiqError(f"{name} cannot be read: {error.strerror or error}") from error

    def picture(self, page: str, source: str) -> bytes | str:
        """See Files."""
        if re.match(r"https?:|//", source, re.IGNORECASE):
            return source if source[0] != "/" else f"https:{source}"
        path = _path(source)
        if "\0" in path or len(path) > _MAX_PATH_CHARACTERS:
            raise IdefiqError("its source is no path")
        beside = [] if path.startswith("/") else [self._top / posixpath.dirname(page)]
        for folder in [*beside, *self._roots]:
            if found := _file(Path(os.path.normpath(folder / path.lstrip("/")))):
                return self._read_picture(found, source, path)
        raise IdefiqError(f"{source} does not exist")

    def _read_picture(self, found: Path, source: str, path: str) -> bytes:
        if not self._is_allowed(found):
            raise IdefiqError(f"{source} is outside {self.name}: name its folder with --root")
        if any(part[0] == "." for part in PurePosixPath(path).parts if part.strip("./")):
            raise IdefiqError(f"{source} is hidden")
        if found.stat().st_size > MAX_IMAGE_BYTES:
            raise IdefiqError(f"{source} has more than {MAX_IMAGE_BYTES} bytes")
        return found.read_bytes()

    def write(self, pages: Mapping[str, bytes]) -> None:
        """See Files; each page is replaced at once, and a link to it stays."""
        for name, data in pages.items():
            _replace((self._top / name).resolve(), data)


class Book:
    """The pages of an EPUB."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        try:
            with zipfile.ZipFile(path) as packed:
                self._names = [info.filename for info in packed.infolist()]
        except (OSError, zipfile.BadZipFile) as error:
            raise IdefiqError(f"{path} is no EPUB: {error}") from error
        self.language = self._language()

    def _language(self) -> str:
        package = next((name for name in self._names if name.lower().endswith(".opf")), None)
        found = (
            re.search(rb"<(?:\w+:)?language[^<>]*>\s*([\w-]+)", self.read(package))
            if package
            else None
        )
        return found[1].decode() if found else ""

    def pages(self) -> Iterator[str]:
        """See Files."""
        for name in self._names:
            if name.lower().endswith((".xhtml", ".html", ".htm", ".css")):
                yield name

    def shown(self, page: str) -> str:
        """See Files."""
        return f"{self._path.name}/{page}"

    def read(self, name: str) -> bytes:
        """See Files."""
        try:
            with zipfile.ZipFile(self._path) as packed:
                if packed.getinfo(name).file_size > MAX_IMAGE_BYTES:
                    raise IdefiqError(f"{name} has more than {MAX_IMAGE_BYTES} bytes")
                return packed.read(name)
        # The last two are zipfile's words for an unknown compression and for a password.
        except (OSError, KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise IdefiqError(f"{self.shown(name)} cannot be read: {error}") from error

    def picture(self, page: str, source: str) -> bytes | str:
        """See Files."""
        if re.match(r"https?:", source, re.IGNORECASE):
            return source
        name = posixpath.normpath(posixpath.join(posixpath.dirname(page), _path(source)))
        if name not in self._names:
            raise IdefiqError(f"{source} does not exist")
        return self.read(name)

    def write(self, pages: Mapping[str, bytes]) -> None:
        """See Files; every other entry keeps its place and its bytes."""
        handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
        os.close(handle)
        try:
            with zipfile.ZipFile(self._path) as old, zipfile.ZipFile(name, "w") as new:
                new.comment = old.comment
                for info in old.infolist():
                    data = pages.get(info.filename)
                    new.writestr(info, old.read(info) if data is None else data)
            Path(name).chmod(self._path.stat().st_mode)
            Path(name).replace(self._path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


class Web:
    """One page of the web, which can be reported but not written."""

    def __init__(self, url: str) -> None:
        self.name = self._url = url
        self.language = ""

    def pages(self) -> Iterator[str]:
        """See Files."""
        yield self._url

    def shown(self, page: str) -> str:
        """See Files."""
        return page

    def read(self, name: str) -> bytes:
        """See Files."""
        try:
            with httpx2.stream(
                "GET", name, follow_redirects=True, timeout=_TIMEOUT_SECONDS
            ) as answer:
                if not answer.is_success:
                    raise IdefiqError(f"{name} answers {answer.status_code}")
                self._url, data = str(answer.url), bytearray()
                for piece in answer.iter_bytes():
                    data += piece
                    if len(data) > MAX_IMAGE_BYTES:
                        raise IdefiqError(f"{name} has more than {MAX_IMAGE_BYTES} bytes")
        except httpx2.HTTPError as error:
            raise IdefiqError(f"{name} cannot be read: {error}") from error
        return bytes(data)

    def picture(self, page: str, source: str) -> bytes | str:
        """See Files; the service fetches it itself."""
        found = urljoin(self._url, source)
        if not found.startswith(("http://", "https://")):
            raise IdefiqError(f"{source} is no address that can be fetched")
        return found

    def write(self, pages: Mapping[str, bytes]) -> None:
        """See Files."""
        raise IdefiqError(f"{self.name} is on the web: a report can be written, the page cannot")


def named(word: str, roots: Sequence[Path] = ()) -> Files:
    """Open what a word of the command line names.

    Raises:
        IdefiqError: Nothing that has pages.
    """
    if word.startswith(("http://", "https://")):
        return Web(word)
    path = Path(word)
    if not word.strip() or not path.exists():
        raise IdefiqError(f"{word!r} does not exist: name a folder, a page, an EPUB or a URL")
    if path.suffix.lower() == ".epub":
        return Book(path)
    if path.is_file() and path.suffix.lower() not in PAGES:
        raise IdefiqError(f"{word!r} is not a page: pages end in {' '.join(PAGES[:-1])} or .epub")
    return Folder(path, roots)


def _path(source: str) -> str:
    """The path of a source without query and fragment; browsers take backslashes too."""
    return path_of(source.replace("\\", "/"))


def _file(path: Path) -> Path | None:
    """A file, links followed to their end; None if it is none, or no name of one."""
    try:
        found = path.resolve()
        return found if found.is_file() else None
    except OSError:
        return None


def is_picture(data: bytes) -> bool:
    """True if bytes begin as an image does; nothing else is sent."""
    if data.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8")) or data[4:8] == b"ftyp":
        return True
    begin = data[:4_096].lower()
    return (begin[:4] == b"riff" and begin[8:12] == b"webp") or (
        begin.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") and b"<svg" in begin
    )


def _replace(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).chmod(path.stat().st_mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
