"""Users' text is data: what looks like a control token in it must not become one.

A question that contains `<image>` would otherwise crash its batch or be bound to a neighbour's
picture, and `<end_of_utterance>` would forge a turn. Processors work on strings and cannot tell
who wrote them, so such words are broken before they get there, and counted afterwards.
"""

import re
import unicodedata
from collections.abc import Iterable

#: Tokens that processors make up while they expand images.
_MADE_UP = ("<row_", "<global-img>", "<fake_token_around_image>", "<image>", "<end_of_utterance>")
#: Characters that are not seen and could hide a token from the search.
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad]")
#: Tokens by which models mark images; none of them may ever be generated.
_OF_IMAGES = re.compile(r"image|img|vision|video|<row_\d+_col_\d+>", re.IGNORECASE)


class Controls:
    """The control tokens of a model, as text.

    Args:
        tokens: Those of its tokenizer; white space is never one.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        known = {token for token in tokens if token.strip()}
        longest_first = sorted({*known, *_MADE_UP}, key=len, reverse=True)
        self._found = re.compile("|".join(re.escape(token) for token in longest_first))
        self.of_images = sorted(token for token in known if _OF_IMAGES.search(token))

    def spell_out(self, text: str) -> str:
        """Return `text` with a space inside everything that a tokenizer would take for a token.

        The search also looks through compatibility forms (full-width brackets) and invisible
        characters, and repeats until nothing is found, so that nothing can be hidden or nested.
        Text without anything of the kind comes back as it was.
        """
        plain = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))
        if not self._found.search(plain) and not self._found.search(text):
            return text
        while self._found.search(plain):
            plain = self._found.sub(lambda match: f"{match[0][0]} {match[0][1:]}", plain)
        return plain
