"""Edits of attributes of one start tag, which change nothing else of a page.

<img src=a.png alt = 'old'>        attributes as the HTML standard reads them
                    ▔▔▔▔▔          an Edit replaces a range; everything around it stays
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: HTML's own white space, which is not that of Unicode.
_SPACE = r" \t\n\f\r"
_TAG = re.compile(rf"<[A-Za-z][^{_SPACE}/>]*")
_ATTRIBUTE = re.compile(
    rf"[{_SPACE}/]*(?P<name>[^{_SPACE}/>][^{_SPACE}/>=]*)"
    rf"(?P<equals>[{_SPACE}]*=[{_SPACE}]*"
    rf"(?P<value>\"[^\"]*\"|'[^']*'|[^{_SPACE}\"'>][^{_SPACE}>]*)?)?"
)
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"}


@dataclass(frozen=True, slots=True, order=True)
class Edit:
    """A range of a text, and its replacement."""

    start: int
    end: int
    text: str


def apply(text: str, edits: Sequence[Edit]) -> str:
    """Apply edits that do not overlap.

    Raises:
        ValueError: Two of them overlap.
    """
    pieces, reached = [], 0
    for edit in sorted(edits):
        if edit.start < reached:
            raise ValueError(f"edits overlap at {edit.start}")
        pieces += [text[reached : edit.start], edit.text]
        reached = edit.end
    return "".join([*pieces, text[reached:]])


def set_attributes(
    text: str, offset: int, values: Mapping[str, str | None], *, escaped: str = ""
) -> Edit:
    """Set attributes of the start tag at `offset`; None removes one.

    Args:
        text: The page.
        offset: Where the tag begins.
        values: By the names of the attributes.
        escaped: Characters that are written as references, besides those of HTML itself.

    Raises:
        ValueError: There is no start tag.
    """
    _, end = _attributes(text, offset)
    tag = text[offset:end]
    for name, value in values.items():
        tag = apply(tag, [_set(tag, name, value, escaped)])
    return Edit(offset, end, tag)


def _set(tag: str, name: str, value: str | None, escaped: str) -> Edit:
    found, end = _attributes(tag, 0)
    if name not in found:
        if tag[:end].rstrip().endswith("="):
            end = _name_end(tag, 0)  # at the end it would be a value
        return Edit(end, end, "" if value is None else f" {name}={_quoted(value, escaped)}")
    match = found[name]
    if value is None:
        return Edit(*match.span(), "")
    if match["value"] is not None:
        quote = "'" if match["value"].startswith("'") else '"'
        return Edit(*match.span("value"), _quoted(value, escaped, quote))
    start, stop = match.span("equals") if match["equals"] else (match.end(), match.end())
    return Edit(start, stop, f"={_quoted(value, escaped)}")


def attribute_spans(text: str, offset: int) -> list[tuple[str, tuple[int, int] | None]]:
    """Names of the attributes of the start tag at an offset, and where their values are.

    The span of a value includes its quotes; it is None for an attribute without a value.

    Raises:
        ValueError: There is no start tag.
    """
    found, _ = _attributes(text, offset)
    return [
        (name, match.span("value") if match["value"] is not None else None)
        for name, match in found.items()
    ]


def end_of_tag(text: str, offset: int) -> int:
    """End of the start tag at an offset, its bracket included; the text's end without one.

    Raises:
        ValueError: There is no start tag.
    """
    _, end = _attributes(text, offset)
    closed = text.find(">", end)
    return closed + 1 if closed >= 0 else len(text)


def _name_end(text: str, offset: int) -> int:
    tag = _TAG.match(text, offset)
    if tag is None:
        raise ValueError(f"there is no start tag at {offset}")
    return tag.end()


def _attributes(text: str, offset: int) -> tuple[dict[str, "re.Match[str]"], int]:
    """The attributes of a start tag by their names, and the end of the last one."""
    found: dict[str, re.Match[str]] = {}
    end = _name_end(text, offset)
    while attribute := _ATTRIBUTE.match(text, end):
        found.setdefault(attribute["name"].lower(), attribute)  # the first one counts
        end = attribute.end()
    return found, end


def _quoted(value: str, escaped: str, quote: str = '"') -> str:
    # Braces are harmless in HTML and code in templates, and what runs last is not known here.
    also = f"&<>{{}}{quote}{escaped}"
    written = (
        _ESCAPES.get(letter, f"&#{ord(letter)};") if letter in also else letter for letter in value
    )
    return f"{quote}{''.join(written)}{quote}"
