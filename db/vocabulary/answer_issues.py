"""Issues of answers: faults that a program can find in a generated text.

They are hints: an answer with an issue is stored and counts as succeeded. They are found by
workers/families/issues.py.
"""

from enum import StrEnum


class AnswerIssue(StrEnum):
    """One kind of fault in an answer."""

    #: No text.
    EMPTY = "empty"
    #: `max_new_tokens` ended it.
    CUT = "cut"
    #: The same words come again and again.
    REPETITION = "repetition"
    #: It says that the model cannot, or will not, answer.
    REFUSAL = "refusal"
    #: It begins with the prompt, or goes on with markers of the prompt.
    PROMPT_ECHOED = "prompt_echoed"
    #: It is in another language than the requested one.
    WRONG_LANGUAGE = "wrong_language"
