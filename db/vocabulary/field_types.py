"""Types of fields in requests: texts that every database can store, of a length that fits."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, StringConstraints, WithJsonSchema

from db.vocabulary.references import check_reference
from db.vocabulary.schema_checks import schema_text


def no_nul(text: str) -> str:
    """Reject the one character that Postgres cannot store.

    Raises:
        ValueError: There is one.
    """
    if "\0" in text:
        raise ValueError("the character NUL is not allowed")
    return text


Text = Annotated[str, StringConstraints(min_length=1, max_length=20_000), AfterValidator(no_nul)]
Reference = Annotated[str, AfterValidator(check_reference)]
CustomId = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(no_nul)]
StopString = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(no_nul)]
OwnTemplate = Annotated[
    str, StringConstraints(min_length=1, max_length=4_000), AfterValidator(no_nul)
]
Line = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200),
    AfterValidator(no_nul),
]

#: A JSON Schema, which is stored as a text.
SchemaText = Annotated[
    str | None,
    BeforeValidator(lambda given: None if given is None else schema_text(given)),
    WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "null"}]}),
]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=2_000), AfterValidator(no_nul)]

#: What a page says around an image: a phrase, or a passage.
Phrase = Annotated[str, StringConstraints(max_length=500), AfterValidator(no_nul)]
Passage = Annotated[str, StringConstraints(max_length=2_000), AfterValidator(no_nul)]
