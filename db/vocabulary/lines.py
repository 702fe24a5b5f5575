"""JSON as the database and all readers of JSON Lines use it."""

from typing import Any

import orjson

#: What JSON lets stand, and some readers take for the end of a line.
_ENDS = [(end.encode(), f"\\u{ord(end):04x}".encode()) for end in "\u0085\u2028\u2029"]


def json_text(value: Any) -> str:
    """Serialize a value as JSON."""
    return orjson.dumps(value).decode()


def json_line(value: Any) -> bytes:
    """Serialize a value as JSON without line breaks of any kind."""
    line = orjson.dumps(value)
    for end, escaped in _ENDS:
        line = line.replace(end, escaped)
    return line
