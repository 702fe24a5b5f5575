"""Which label a generated answer names."""

import unicodedata
from collections.abc import Sequence

#: Signs that tell labels apart, as C from C++ and C#.
_SIGNS = "+#-_"


def named(text: str, labels: Sequence[str]) -> str | None:
    """Return the label that `text` names; None if it names none, or several.

    Case, the encoding of accents and what is around words do not matter. The answer is a label,
    or begins with one (the longest wins), or contains just one.
    """
    answer = _plain(text)
    plain = {label: _plain(label) for label in labels}
    for label in labels:
        if plain[label] == answer:
            return label
    begins = [label for label in labels if _starts(answer, plain[label])]
    if begins:
        return max(begins, key=lambda label: len(plain[label]))
    inside = [label for label in labels if f" {plain[label]} " in f" {answer} "]
    # "cat" inside "wild cat" is no choice of its own.
    inside = [
        label
        for label in inside
        if not any(f" {plain[label]} " in f" {plain[other]} " for other in inside if other != label)
    ]
    return inside[0] if len(inside) == 1 else None


def _starts(answer: str, label: str) -> bool:
    return bool(label) and f"{answer} ".startswith(f"{label} ")


def _plain(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = "".join(letter if _counts(letter) else " " for letter in folded).split()
    return " ".join(words) or folded.strip()


def _counts(letter: str) -> bool:
    # Marks are the vowels of many scripts.
    return letter.isalnum() or letter in _SIGNS or unicodedata.category(letter).startswith("M")
