"""The linter of alternative texts, and corrections that need no model.

    draft ──tidy──▶ text ──lint──▶ issues

The rules are those of the W3C's tutorial on images and of people who use screen readers: the
image is announced as one already, a file's name says nothing, and a text that is cut in the
middle of a word is worse than a long one. The service applies them to its drafts, and
`idefiq alt lint` to what is there.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from idefiq.alt.refusals import is_refusal

#: Characters aimed at. A convention and no limit: screen readers read on.
TARGET_LENGTH = 125
_FORMATS = "avif|bmp|gif|heic|heif|jpe?g|png|svgz?|tiff?|webp"
_FILE_NAME = re.compile(
    # Names of files, of cameras' files, and of what programs call their exports.
    rf"\S+\.(?:{_FORMATS})|(?:img|image|dsc[nf]?|dcim|pict?|photo|screen[ _-]?shot|scan|mvimg|pxl)"
    r"[ _-]?\d[\d ._:-]*|[0-9a-f]{16,}|\d{8}[_-]\d{4,}",
    re.IGNORECASE,
)
#: A longer text is no name.
_MAX_NAME_CHARACTERS = 200
_NOUN = (
    "image|picture|photo|photograph|pic|graphic|icon|illustration|drawing|screenshot|snapshot"
    "|bild|foto|imagen|immagine|afbeelding"
)
_PLACEHOLDER = re.compile(
    r"(?:(?:insert )?alt(?:ernat(?:iv)?e)?(?: text)?(?: here)?|(?:image|img) alt|blank|decorative"
    r"|figure|img|n/a|none|null|placeholder|spacer|tbd|temp|test|thumb(?:nail)?|todo|undefined"
    rf"|untitled|x{{2,}}|[….-]+|(?:{_NOUN}) ?#?\d{{0,4}})",
    re.IGNORECASE,
)
_ARTICLE = r"(?:(?:this|that|here|it|there)\s+is\s+)?(?:an?|the|this|ein|das|une?|la|el|il|een)\s+"
_LEAD_IN = re.compile(
    rf"\s*(?:(?:alt(?:ernative)?(?:\s+text)?|caption|description)\s*:\s*)?"
    rf"(?:(?:{_ARTICLE})?(?:\w+\s+)?(?:{_NOUN})\s+"
    r"(?:(?:which|that)\s+)?(?:is\s+)?(?:of|shows?|showing|depicts?|depicting|features?|featuring"
    r"|contains?|containing|displays?|displaying|von|de|del|di|van|zeigt|montre|muestra|mostra|toont)"
    r"\s+|(?:alt(?:ernative)?(?:\s+text)?|caption|description)\s*:\s*)",
    re.IGNORECASE,
)
#: Words before the noun that say what kind of picture it is, and may be worth telling.
_TELLING = re.compile(r"(?:x-ray|infrared|satellite|aerial|microscope|thermal)\s", re.IGNORECASE)
#: In an alternative text nobody speaks of what they cannot do.
_FIRST_PERSON = re.compile(
    r"\bi\s+(?:cannot|can't|can\s+not|am\s+unable|do\s+not\s+see|don't\s+see)\b"
    r"|\bas\s+an\s+ai\b|\bunable\s+to\s+(?:see|view|describe)\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)]*(?=\s|$)")
_QUOTES = {'"': '"', "“": "”", "'": "'", "„": "“", "«": "»", "`": "`"}


@dataclass(frozen=True, slots=True)
class Issue:
    """A problem of an alternative text.

    Attributes:
        code: Stable name, such as "file_name".
        message: One sentence that says what to do.
        is_error: A text with an error should not be shipped; the others are advice.
    """

    code: str
    message: str
    is_error: bool = True


def is_file_name(text: str) -> bool:
    """True if a text is only a file name, or the name of a camera's photograph."""
    return len(text) <= _MAX_NAME_CHARACTERS and bool(_FILE_NAME.fullmatch(text.strip()))


def is_placeholder(text: str) -> bool:
    """True if a text only stands where somebody should have written one."""
    bare = re.sub(r"[\s_-]+", " ", text.strip().strip("[](){}<>*:!?")).strip()
    return bool(_PLACEHOLDER.fullmatch(bare))


def lint(text: str, *, near: Sequence[str] = (), target_length: int = TARGET_LENGTH) -> list[Issue]:
    """Return the issues of a text.

    Args:
        text: The text alternative, not empty: an empty one says that an image is decorative.
        near: Texts that are read beside it: its caption, its heading, the rest of its link.
        target_length: Characters aimed at.
    """
    if not text.strip():
        return [Issue("blank", "say what matters, or mark the image as decorative")]
    if is_placeholder(text):
        return [Issue("placeholder", f"{_short(text)!r} says nothing: say what the image shows")]
    if is_file_name(text):
        return [Issue("file_name", f"{_short(text)!r} is the name of a file: say what it shows")]
    found = [objection for rule in _RULES if (objection := rule(text))]
    if any(_alike(text, other) for other in near):
        found.append(Issue("repeats", "the same is said beside the image: say what that does not"))
    if len(text) > target_length:
        found.append(
            Issue("long", f"{len(text)} characters; {target_length} are aimed at", is_error=False)
        )
    return found


def tidy(text: str, *, is_cut: bool = False) -> str:
    """Correct a draft without a model: never cut within a word, never shortened for length.

    White space becomes one space, quotes around the whole text and lead-ins such as "An image
    of" are removed, and the first letter becomes a capital.

    Args:
        text: What a model said.
        is_cut: It was stopped while it spoke: what follows the last whole sentence goes, and if
            there is none the last word, which may be half of one.
    """
    tidied = " ".join(text.split())
    if len(tidied) > 1 and _QUOTES.get(tidied[0]) == tidied[-1]:
        tidied = tidied[1:-1].strip()
    if is_cut:
        tidied = _whole(tidied)
    if (lead := _LEAD_IN.match(tidied)) and not _TELLING.search(lead[0]):
        tidied = tidied[lead.end() :]
    return tidied[:1].upper() + tidied[1:]


def _whole(text: str) -> str:
    if ends := list(_SENTENCE_END.finditer(text)):
        return text[: ends[-1].end()]
    return text.rpartition(" ")[0].rstrip(" ,;:–-") or text


def _lead_in(text: str) -> Issue | None:
    lead = _LEAD_IN.match(text)
    if not lead or _TELLING.search(lead[0]):
        return None
    return Issue(
        "lead_in",
        f"leave out {lead[0].strip()!r}: a screen reader says that it is an image",
        is_error=False,
    )


def _refusal(text: str) -> Issue | None:
    if not (is_refusal(text) or _FIRST_PERSON.search(text)):
        return None
    return Issue("refusal", "this speaks of who looks, and not of the image")


def _markup(text: str) -> Issue | None:
    if not re.search(r"</?[a-z][^<>]{0,200}>|&(?:#\d+|[a-z]+);|\*\*|\]\(|https?://|\n", text):
        return None
    return Issue("markup", "markup, addresses and line breaks are read out: use plain text")


def _loop(text: str) -> Issue | None:
    words = re.findall(r"\w+", text.casefold())
    for size in (1, 2, 3, 4, 5, 6):
        for start in range(len(words) - 3 * size + 1):
            run = words[start : start + size]
            if words[start + size : start + 3 * size] == run * 2:
                return Issue("loop", f"{' '.join(run)!r} is repeated again and again")
    return None


def _case(text: str) -> Issue | None:
    letters = [letter for letter in text if letter.isalpha()]
    if len(text.split()) >= 3 and len(letters) > 12 and all(map(str.isupper, letters)):
        return Issue("capitals", "all capitals are spelt out by some screen readers")
    if letters and text.strip()[0].islower() and not re.match(r"[a-z]+[A-Z]", text.strip()):
        return Issue("lower_case", "begin with a capital letter", is_error=False)
    return None


def _spaces(text: str) -> Issue | None:
    if text == text.strip():
        return None
    return Issue("spaces", "there is white space around the text", is_error=False)


def _unfinished(text: str) -> Issue | None:
    if not re.search(r"(?:\b(?:a|an|the|and|or|of|in|on|with|to|is|are)|[,;:–(-])\s*$", text):
        return None
    return Issue("unfinished", "the text breaks off")


_RULES = (_lead_in, _refusal, _markup, _loop, _case, _spaces, _unfinished)


def _alike(text: str, other: str) -> bool:
    own_words, beside = (re.findall(r"\w+", one.casefold()) for one in (text, other))
    return bool(own_words) and own_words == beside


def _short(text: str) -> str:
    stripped = text.strip()
    return stripped if len(stripped) <= 60 else f"{stripped[:57]}…"
