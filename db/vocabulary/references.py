"""References to images, in the four forms that submissions may have."""

import re
import string

#: Longest reference that is not `data:`.
MAX_REFERENCE = 8_192
# The first characters decide the form, so that matching is linear in the length.
_REFERENCE = re.compile(r"blob:[0-9a-f]{64}|https?://[^\s/]\S*|s3://[^\s/]\S*", re.ASCII)
#: Whatever type it names: what the bytes are decides.
_DATA = re.compile(r"data:[^,]{0,200}?;base64,", re.IGNORECASE)
#: Of both alphabets, wrapped or percent-encoded too; deleting them from megabytes is faster than
#: matching a pattern.
_BASE64 = (string.ascii_letters + string.digits + "+/=-_% \t\r\n").encode()
REFERENCE_FORMS = "blob:SHA256, http(s)://…, s3://bucket/key or data:…;base64,…"


def check_reference(reference: str) -> str:
    """Return an image reference if it has one of the four forms; `data:` in lower case.

    Raises:
        ValueError: It has none of them.
    """
    if reference[:5].lower() == "data:":
        reference = f"data:{reference[5:]}"
    too_long = len(reference) > MAX_REFERENCE and not reference.startswith("data:")
    if too_long or "\0" in reference or not _matches(reference):
        shown = reference if len(reference) <= 60 else f"{reference[:57]}…"
        raise ValueError(f"invalid image reference: {shown!r}; expected {REFERENCE_FORMS}")
    return reference


def _matches(reference: str) -> bool:
    if data := _DATA.match(reference):
        rest = reference[data.end() :]
        return rest.isascii() and not rest.encode().translate(None, _BASE64)
    if reference.startswith("s3://"):
        return bool(reference.removeprefix("s3://").partition("/")[2]) and bool(
            _REFERENCE.fullmatch(reference)
        )
    return bool(_REFERENCE.fullmatch(reference))
