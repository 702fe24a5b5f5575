"""Values of header fields: media types, Accept (RFC 9110) and Prefer (RFC 7240)."""

import re
from collections.abc import Iterator

#: Characters of a Prefer field that are read: quotes without an end cost their square.
MAX_PREFER = 500
_QUOTED_OR_NOT = r'(?:"((?:[^"\\]|\\.)*)"|([^\s",;]*))'
_PREFERENCE = re.compile(rf"([^\s=,;\"]+)\s*(?:=\s*{_QUOTED_OR_NOT})?")


def media_type(field: str | None) -> str:
    """Return the media type of a Content-Type, in lower case and without parameters."""
    return (field or "").partition(";")[0].strip().lower()


def accepts(field: str | None, wanted: str) -> bool:
    """True if an Accept field names a media type, and not to refuse it (q=0)."""
    for entry in (field or "").split(","):
        name, *parameters = (part.strip().lower() for part in entry.split(";"))
        if name == wanted:
            return not any(re.fullmatch(r"q\s*=\s*0(\.0*)?", each) for each in parameters)
    return False


def wait_seconds(field: str | None) -> int:
    """Return the `wait` of a Prefer field; 0 if there is none. The first one counts."""
    for name, value in _preferences((field or "")[:MAX_PREFER]):
        if name == "wait":
            return int(value) if re.fullmatch(r"[0-9]{1,6}", value) else 0
    return 0


def _preferences(field: str) -> Iterator[tuple[str, str]]:
    # A comma within quotes ends nothing; parameters of a preference follow a semicolon.
    for entry in re.findall(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+', field):
        if found := _PREFERENCE.match(entry.strip()):
            yield found[1].lower(), found[2] if found[2] is not None else found[3] or ""
