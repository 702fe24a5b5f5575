"""A page's bytes as text, in such a way that the same bytes can be made of it again."""

import re
from bisect import bisect_left
from dataclasses import dataclass

from idefiq.types import IdefiqError

_CHARSET = re.compile(rb"<meta[^>]{1,200}charset\s*=\s*[\"']?\s*([\w-]+)", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"<\?xml[^>]{1,200}encoding\s*=\s*[\"']([\w-]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Text:
    """A page as text, and how it becomes bytes again."""

    text: str
    encoding: str

    @classmethod
    def of(cls, data: bytes, name: str) -> "Text":
        """Decode so that the same bytes can be made of it.

        Raises:
            IdefiqError: That cannot be done.
        """
        encoding = _encoding(data, name)
        try:
            text = data.decode(encoding, errors="surrogateescape")
            if text.encode(encoding, errors="surrogateescape") == data:
                return cls(text, encoding)
        except (LookupError, UnicodeError) as error:
            raise IdefiqError(f"it cannot be read as {encoding}: {error}") from error
        raise IdefiqError(f"it is not proper {encoding}: writing it back would change it")

    def bytes_of(self, text: str) -> bytes:
        """A changed text as bytes; what the encoding does not have becomes a reference."""
        pieces = []
        for letter in re.split(r"([^\x00-\x7f])", text):
            try:
                pieces.append(letter.encode(self.encoding, errors="surrogateescape"))
            except UnicodeEncodeError:
                pieces.append(letter.encode(self.encoding, errors="xmlcharrefreplace"))
        return b"".join(pieces)


def _encoding(data: bytes, name: str) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    told = None
    if name.lower().endswith((".html", ".htm", ".xhtml")) or "://" in name:
        told = _XML_ENCODING.match(data) or _CHARSET.search(data[:4_096])
    encoding = told[1].decode().lower() if told else "utf-8"
    # As browsers have it.
    return "cp1252" if encoding in ("iso-8859-1", "latin-1", "ascii", "us-ascii") else encoding


class Lines:
    """Line numbers of positions."""

    def __init__(self, text: str) -> None:
        self._ends = [found.start() for found in re.finditer("\n", text)]

    def of(self, offset: int) -> int:
        """The line of a position, from 1."""
        return bisect_left(self._ends, offset) + 1
