"""JSON as one line, for every reader of lines."""

import json
from typing import Any

#: What JSON lets stand, and some readers take for the end of a line.
_ENDS = str.maketrans({end: f"\\u{ord(end):04x}" for end in "\u0085\u2028\u2029"})


def json_line(value: Any) -> str:
    """A value as JSON without a line break of any kind."""
    return json.dumps(value, ensure_ascii=False).translate(_ENDS)
