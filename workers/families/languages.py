"""Languages of texts: whether an answer is in the language that was asked for.

The detector is py3langid: it knows 139 languages and gives each a log likelihood. A short text
says little, so a language counts as the wrong one only if another is far likelier.
"""

from functools import cache

from babel import Locale

#: Fewer letters than this say nothing about their language.
MIN_LETTERS = 16
#: By how much (in nats) another language must be likelier. A sentence of ten words has 50 to 60 on
#: its own side, closely related languages such as Danish and Norwegian differ by 5, and an English
#: list of Italian dishes looks Italian by 22.
MIN_MARGIN = 30.0
#: Codes of the detector where they differ from Babel's.
_DETECTED = {"nb": "no", "fil": "tl", "iw": "he"}
#: Languages that are known by their own names too; reading the names of all takes seconds.
_NATIVE = """
ar bg bn ca cs da de el es et eu fa fi fr gl he hi hr hu id it ja ko lt lv ms nb nl pl pt ro ru sk
sl sr sv ta th tr uk ur vi zh
"""


def is_wrong_language(text: str, language: str) -> bool:
    """True if a text is clearly in another language than `language`.

    Args:
        language: A name such as French or français, or a code such as fr or fr-CA. False is
            returned for one that the detector does not know.
    """
    if sum(map(str.isalpha, text)) < MIN_LETTERS:
        return False
    code = language_code(language)
    if code is None:
        return False
    from py3langid import langid  # its model is loaded by the first text that needs it

    scores = dict(langid.rank(text))
    return code in scores and max(scores.values()) - scores[code] > MIN_MARGIN


def language_code(language: str) -> str | None:
    """Return the code of a language that is named in English or in itself, or by its code.

    None is returned for a language, or a way to write it, that the detector does not know.
    """
    code = _codes().get(language.strip().casefold())
    if code is None:
        return None
    base, _, rest = code.partition("_")
    # Hindi in Latin letters is not what the detector knows as Hindi.
    if rest[:4].isalpha() and len(rest) >= 4 and base != "zh":
        return None
    return _DETECTED.get(base, base)


@cache
def _codes() -> dict[str, str]:
    """Codes by name: in English, by the codes themselves, and of each language in itself."""
    english: dict[str, str] = dict(Locale("en").languages.items())
    codes = {code.casefold(): code for code in english}
    codes |= {code.casefold().replace("_", "-"): code for code in english}
    codes |= {name.casefold(): code for code, name in english.items()}
    for code in _NATIVE.split():
        own = str(Locale.parse(code).languages[code])
        codes.setdefault(own.casefold(), code)
    return codes
