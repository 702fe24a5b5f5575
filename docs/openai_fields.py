"""The table of docs/openai.md: fields of a chat completion, from the code that reads them."""

import json
from collections.abc import Iterator

from db.openai.chat_fields import NEUTRAL, ChatFields


def fields_table() -> str:
    """Every field of a chat completion, and what it does."""
    return "\n".join(["| field | what it does |", "|---|---|", *_rows()])


def _rows() -> Iterator[str]:
    for name, field in ChatFields.model_fields.items():
        meaning = field.description or ""
        if name in NEUTRAL:
            taken = " or ".join(f"`{json.dumps(value)}`" for value in NEUTRAL[name])
            meaning = f"Not supported: refused unless it is {taken}"
        yield f"| `{field.alias or name}` | {meaning} |"
