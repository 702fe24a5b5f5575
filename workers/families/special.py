"""Users' text is data: what looks like a control token in it must not become one.

A question that contains `<image>` would otherwise crash its batch or be bound to a neighbour's
picture, and `<end_of_utterance>` would forge a turn.
"""

import re
import unicodedata
from collections.abc import Iterable

#: Tokens that processors make up while they expand images.
_MADE_UP = ("<row_", "<global-img>", "<fake_token_around_image>", "<image>", "<end_of_utterance>")
#: Characters that are not seen and could hide a token from the search.
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad]")


def spell_out(text: str, special_tokens: Iterable[str]) -> str:
    """Return `text` with a space inside everything that a tokenizer would take for a token.

    The search also looks through compatibility forms (full-width brackets) and invisible
    characters, and repeats until nothing is found, so that nothing can be hidden or nested.
    Text without anything of the kind comes back as it was.
    """
    tokens = sorted({*special_tokens, *_MADE_UP} - {""}, key=len, reverse=True)
    found = re.compile("|".join(re.escape(token) for token in tokens))
    plain = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))
    if not found.search(plain) and not found.search(text):
        return text
    while found.search(plain):
        plain = found.sub(lambda match: f"{match[0][0]} {match[0][1:]}", plain)
    return plain
