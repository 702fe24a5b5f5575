"""Control tokens: users' text must not become one.

A question that contains `<image>` would otherwise crash its batch or be bound to a neighbour's
picture, and `<end_of_utterance>` would forge a turn. Processors work on strings and cannot tell
who wrote them, so such words are broken before they get there, and counted afterwards.
"""

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Any

#: Tokens that processors make up while they expand images.
_MADE_UP = ("<row_", "<global-img>", "<fake_token_around_image>", "<image>", "<end_of_utterance>")
#: Characters that are not seen and could hide a token from the search.
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad]")
#: Tokens by which models mark images; none of them may ever be generated.
_OF_IMAGES = re.compile(r"image|img|vision|video|<row_\d+_col_\d+>", re.IGNORECASE)


class ControlTokens:
    """The control tokens of a model.

    Args:
        ids: Their numbers by their text.
        known: Tokens that the model has an embedding for; whatever lies beyond is a control token.
    """

    def __init__(self, ids: dict[str, int], known: int = sys.maxsize) -> None:
        self._ids, self._known = frozenset(ids.values()), known
        # One character cannot be broken; where it is a token, the count tells.
        breakable = {token for token in ids if len(token) > 1}
        longest_first = sorted({*breakable, *_MADE_UP}, key=len, reverse=True)
        self._found = re.compile("|".join(re.escape(token) for token in longest_first))
        self.of_images = sorted(token for token in ids if _OF_IMAGES.search(token))

    @classmethod
    def of(
        cls, tokenizer: Any, chat_template: str, image_token: str, *, known: int
    ) -> "ControlTokens":
        """Read them off a tokenizer: its special tokens, and those in its chat template.

        White space is none, though some tokenizers have tokens for it, nor is the one for what
        is unknown: both come from anybody's text.
        """
        ids = {
            token.content: number
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.special or token.content in chat_template or number >= known
        }
        ids[image_token] = tokenizer.convert_tokens_to_ids(image_token)
        ids.pop(tokenizer.unk_token, None)
        return cls({token: number for token, number in ids.items() if token.strip()}, known)

    def neutralize(self, text: str) -> str:
        """Return `text` with a space inside everything that would become a control token.

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

    def count(self, ids: Iterable[int]) -> Counter[int]:
        """Count each control token in token ids."""
        return Counter(number for number in ids if number in self._ids or number >= self._known)

    def last(self, text: str) -> int:
        """Position of the last control token in a prompt, 0 if there is none."""
        return max((match.start() for match in self._found.finditer(text)), default=0)
