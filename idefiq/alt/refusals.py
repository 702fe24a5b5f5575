"""Refusals: texts in which a model says that it cannot, or will not, answer."""

import re

#: A refusal stands at the beginning; later the same words may be what an image shows.
REFUSAL_CHARACTERS = 200

_VERBS = (
    "see|view|describe|identify|answer|determine|assist|help|provide|comply|fulfill|process|access"
    "|analyze|display|generate|tell|read|recognize"
)
_REFUSAL = re.compile(
    # At the beginning of a sentence, so that what a sign in the image says is no refusal.
    r"(?:^|[.!?…,;]\s+)\W{0,3}(?:(?:unfortunately|sorry|apologies|however|but|so|and|leider)\b[,.!]?\s*)*(?:"
    r"as an? (?:ai|language model|text-based)\b"
    r"|i(?:'m| am) (?:just |only )?an? (?:ai|language model|text-based)\b"
    r"|i won't be able\b|i (?:don't|do not) have the ability\b"
    r"|i(?:'m| am)? ?(?:really |so |very |truly )?(?:sorry|apologize|unable to|not able to)\b"
    rf"|i (?:can ?not|can't|do not|don't|won't|will not|couldn't) (?:{_VERBS})\b"
    rf"|(?:unable|(?:it is )?not possible) to (?:{_VERBS})\b"
    r"|(?:es )?tut mir leid\b"
    r"|(?:ich kann|kann ich) (?:das|dieses|ihnen|dir|leider)\b[^.]{0,60}\bnicht\b"
    r"|je (?:suis désolée?|ne peux pas|suis incapable)\b"
    r"|lo siento\b|no puedo (?:ayudar|ver|describir|identificar|responder)\b"
    r"|mi dispiace\b|non posso (?:aiutar|vedere|descrivere|identificare|rispondere)"
    r"|(?:sinto muito|desculpe)\b|não posso (?:ajudar|ver|descrever|identificar|responder)\b"
    r"|het spijt me\b|ik kan (?:je|u|dit|deze)\b[^.]{0,40}\bniet\b"
    r"|抱歉|对不起|很抱歉|我无法|我不能|申し訳|죄송|к сожалению, я|я не могу"
    r")",
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """True if a text begins with words by which models refuse, in one of eleven languages."""
    return bool(_REFUSAL.search(text[:REFUSAL_CHARACTERS].strip().replace("\u2019", "'")))
