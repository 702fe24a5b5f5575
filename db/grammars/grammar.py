"""A structure as a grammar of llguidance, which masks the tokens that cannot come next.

llguidance, because it refuses what it cannot enforce: others ignore keywords of a schema silently.
It bounds its own work, has no dependencies, and computes a mask in some microseconds.

JSON and choices may begin with one space, which is not part of the answer: in many vocabularies a
word begins with the space before it, and a model that may not say it takes a less likely token.
"""

import re

import orjson
from llguidance import LLMatcher, LLTokenizer

from db.vocabulary.json_schemas import enforceable
from db.vocabulary.structures import Structure

#: As Python and most models write JSON; whitespace that is free would let a model go on for ever.
#: Without escapes by number: by them a name could be said that the schema excludes, and NUL.
_JSON_STYLE = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "json_allowed_escapes": 'nrbtf\\"',
}
#: Where in the grammar something is wrong: it is ours, and tells nobody anything.
_PLACE = re.compile(r"^at \d+\(\d+\): (failed to compile JSON schema: )?")
#: Tokens of an answer that are tried before a structure is accepted.
TRIED_TOKENS = 256


def grammar_of(structure: Structure) -> str:
    """Return the grammar of a structure; whether it is a valid one is only known by using it."""
    if structure.form == "schema":
        schema = {**enforceable(structure.text), "x-guidance": _JSON_STYLE}
        return _lark(f'start: " "? json\njson: %json {orjson.dumps(schema).decode()}')
    if structure.form == "choices":
        texts = "|".join(map(_literally, orjson.loads(structure.text)))
        return str(LLMatcher.grammar_from_regex(f" ?({texts})"))
    return str(LLMatcher.grammar_from_regex(_without_anchors(structure.text)))


def _lark(rules: str) -> str:
    return str(LLMatcher.grammar_from_lark(rules))


def error_of(structure: Structure) -> str:
    """Return why answers cannot be generated with a structure, or "".

    It is tried with a vocabulary of bytes, for the beginning of an answer. May take long, or kill
    the process: see db/grammars/checks.py.
    """
    matcher = LLMatcher(LLTokenizer("byte"), grammar_of(structure), log_level=0)
    for _ in range(TRIED_TOKENS):
        if matcher.is_error() or matcher.is_stopped():
            break
        allowed = matcher.compute_bitmask()
        matcher.consume_token(next((n for n in range(256) if allowed[n // 8] >> n % 8 & 1), 0))
    return reason(matcher.get_error())


def reason(error: str) -> str:
    """Return the one sentence in an error of llguidance that says what is wrong."""
    lines = error.splitlines() or [""]
    told = next((line for line in lines if line.startswith("error: ")), lines[0])
    told = _PLACE.sub("", told.removeprefix("error: "))
    return "no text fits it" if told.startswith("NoExtension") else told


def _literally(text: str) -> str:
    """Return a pattern that matches exactly this text."""
    return "".join(
        each if each.isascii() and each.isalnum() else f"\\x{{{ord(each):x}}}" for each in text
    )


def _without_anchors(pattern: str) -> str:
    """Remove ^ and $ at the ends, which say what is the case anyway."""
    pattern = pattern.removeprefix("^")
    escapes = len(pattern[:-1]) - len(pattern[:-1].rstrip("\\"))
    return pattern[:-1] if pattern.endswith("$") and escapes % 2 == 0 else pattern
