"""Texts that quote what somebody has sent."""

#: Characters of a message that quotes.
MAX_QUOTED = 500


def quotable(text: str) -> str:
    """Return a text cut to a message's length, and without the character no database can store."""
    shown = text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}…"
    return shown.replace("\0", "\N{REPLACEMENT CHARACTER}")
