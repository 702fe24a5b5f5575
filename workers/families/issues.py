"""Finds issues of generated answers, from the text alone: see db/vocabulary/answer_issues.py."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from db.vocabulary.answer_issues import AnswerIssue
from idefiq.alt.refusals import is_refusal
from workers.families.languages import is_wrong_language

#: Words with which an answer must begin to count as an echo of what was asked, or all words if
#: there are fewer. A shorter prompt may be meant to begin the answer, as "a photo of a".
ECHO_WORDS = 8
MIN_PROMPT_WORDS, MIN_QUESTION_WORDS = 5, 3
#: A phrase of one or two words must come this often in a row, a longer one `MIN_REPEATS` times.
MIN_REPEATS_OF_SHORT, MIN_REPEATS = 4, 3

#: Scripts without spaces count each character as a word: kana, Han, Thai, Lao, Khmer, Burmese.
_WORD = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]|[^\W_]+")
_LIST_NUMBER = re.compile(r"^[^\S\n]*\d+[.)]", re.MULTILINE)
#: Lines on which base models go on with the conversation that they were shown.
_MARKER = re.compile(r"^[^\S\n]*(?:user|assistant|human)[^\S\n]*:", re.I | re.M)


def find_issues(request: Mapping[str, Any], answer: Mapping[str, Any]) -> list[AnswerIssue]:
    """Return the issues of an answer, as it is stored, in the order of AnswerIssue.

    Linear in the length of the text, but a language takes a moment: not for a device's thread.

    Args:
        request: The effective request.
    """
    text = answer["text"].strip()
    if "scores" in answer:
        return []  # one of the request's own labels
    if not text:
        return [AnswerIssue.EMPTY]
    words = _words(text)
    found = {
        AnswerIssue.CUT: answer.get("finish_reason") == "length",
        AnswerIssue.REPETITION: _repeats(words),
        AnswerIssue.REFUSAL: is_refusal(text),
        AnswerIssue.PROMPT_ECHOED: _echoes(words, request) or bool(_MARKER.search(text)),
        AnswerIssue.WRONG_LANGUAGE: _is_wrong_language(text, request),
    }
    return [issue for issue, is_there in found.items() if is_there]


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(_LIST_NUMBER.sub("", text))]


def _repeats(words: list[str]) -> bool:
    """True if a phrase comes several times in a row. Linear in the number of words.

    A run of places where the words are those of `period` words before is a phrase that repeats:
    it has come `run / period + 1` times.
    """
    last_at: dict[tuple[str, ...], int] = {}
    period = run = 0
    for at, three in enumerate(zip(words, words[1:], words[2:], strict=False)):
        found = at - last_at.get(three, at)
        run = run + 1 if found and found == period else 3 * bool(found)
        period = found
        last_at[three] = at
        needed = MIN_REPEATS_OF_SHORT if period <= 2 else MIN_REPEATS
        if period and run >= period * (needed - 1) and not _is_figures(words[at : at + period]):
            return True
    return False


def _is_figures(words: list[str]) -> bool:
    """True if there are digits alone, as in a table that an image shows."""
    return all(word.isdigit() for word in words)


def _echoes(words: list[str], request: Mapping[str, Any]) -> bool:
    for asked in _asked(request):
        begin = _words(asked)[:ECHO_WORDS]
        least = MIN_QUESTION_WORDS if asked.rstrip().endswith("?") else MIN_PROMPT_WORDS
        if len(begin) >= least and words[: len(begin)] == begin:
            return True
    return False


def _asked(request: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a request says in words: a prompt, a question, the last message of a user."""
    yield from (request[name] for name in ("prompt", "question") if name in request)
    for message in reversed(request.get("messages", ())):
        if message["role"] == "user":
            yield from (part["text"] for part in message["content"] if part["type"] == "text")
            return


def _is_wrong_language(text: str, request: Mapping[str, Any]) -> bool:
    language = request.get("language")
    return bool(language) and is_wrong_language(text, str(language))
