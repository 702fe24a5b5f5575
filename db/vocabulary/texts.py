"""Texts of others, as they can be stored and quoted."""

#: Characters of a message that quotes.
MAX_QUOTED = 500


def storable(text: str) -> str:
    """Replace NUL, which a byte-level tokenizer can generate and Postgres cannot store."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def quotable(text: str) -> str:
    """Return a text that can be stored, cut to the length of a message."""
    return storable(text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}…")
