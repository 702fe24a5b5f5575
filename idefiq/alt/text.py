"""Decodes the bytes of a page so that encoding the text gives the same bytes."""

import codecs
import re
from bisect import bisect_left
from dataclasses import dataclass

from idefiq.errors import IdefiqError

_CHARSET = re.compile(rb"<meta[^>]{1,200}charset\s*=\s*[\"']?\s*([\w-]+)", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"<\?xml[^>]{1,200}encoding\s*=\s*[\"']([\w-]+)", re.IGNORECASE)
#: What pages that say these are in.
_REALLY_1252 = frozenset({"iso-8859-1", "iso8859-1", "latin-1", "latin1", "ascii", "us-ascii"})
#: In which a letter's bytes depend on those before it.
_STATEFUL = ("utf-16", "utf-32", "utf-7", "utf16", "utf32", "utf7", "iso-2022", "iso2022", "hz")


@dataclass(frozen=True)
class PageText:
    """A page as text, and how it becomes bytes again."""

    text: str
    encoding: str

    @classmethod
    def of(cls, data: bytes, name: str) -> "PageText":
        """Decode bytes so that the same bytes can be made of the text.

        Raises:
            IdefiqError: That cannot be done.
        """
        encoding = _encoding(data, name)
        if encoding.startswith(_STATEFUL):
            raise IdefiqError(f"it is {encoding}, which cannot be changed in part: use UTF-8")
        try:
            text = data.decode(encoding, errors="surrogateescape")
            if text.encode(encoding, errors="surrogateescape") == data:
                return cls(text, encoding)
        except (LookupError, UnicodeError) as error:
            raise IdefiqError(f"it cannot be read as {encoding}: {error}") from error
        raise IdefiqError(f"it is not valid {encoding}: writing it back would change it")

    def bytes_of(self, text: str) -> bytes:
        """Encode a changed text; characters that the encoding lacks become references."""
        try:
            return text.encode(self.encoding, errors="surrogateescape")
        except UnicodeEncodeError:
            return b"".join(map(self._letter, text))

    def _letter(self, letter: str) -> bytes:
        try:
            return letter.encode(self.encoding, errors="surrogateescape")
        except UnicodeEncodeError:
            return letter.encode("ascii", errors="xmlcharrefreplace")


def _encoding(data: bytes, name: str) -> str:
    """Find the encoding as browsers do: byte order mark, declaration, or a guess."""
    if data.startswith(codecs.BOM_UTF8):
        return "utf-8"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if name.lower().endswith((".md", ".markdown", ".css")):
        return "utf-8"
    if declared := _XML_ENCODING.match(data) or _CHARSET.search(data[:4_096]):
        encoding = declared[1].decode().lower()
        return "cp1252" if encoding in _REALLY_1252 else encoding
    try:
        data.decode()
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


class LineNumbers:
    """Line numbers of positions."""

    def __init__(self, text: str) -> None:
        self._ends = [found.start() for found in re.finditer("\n", text)]

    def of(self, offset: int) -> int:
        """Line of a position, from 1."""
        return bisect_left(self._ends, offset) + 1
