"""Structures: what an answer must look like, where its request says so.

    schema    a JSON Schema      the answer is JSON that the schema describes
    choices   a list of texts    the answer is one of them
    regex     a pattern          the answer matches it from its beginning to its end

They are enforced while the answer is generated: see db/grammars.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from db.vocabulary.json_schemas import MAX_DEPTH, depth

Form = Literal["schema", "choices", "regex"]
FORMS: tuple[Form, ...] = ("schema", "choices", "regex")
#: Options that would end an answer before it is complete, or take tokens from it that it needs;
#: each with the value that does not.
UNSTRUCTURED_OPTIONS: Mapping[str, Any] = {
    "min_new_tokens": 0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "stop": (),
}
#: As the tool of a chat: the answer itself says which function it calls.
ANY_TOOL = "*"
#: What JSON mode of OpenAI's API asks for.
ANY_OBJECT = '{"type":"object"}'


@dataclass(frozen=True, slots=True)
class Structure:
    """What an answer must look like.

    Attributes:
        text: JSON of the schema or of the list of choices, or the pattern.
    """

    form: Form
    text: str

    def read(self, answer: str) -> Any:
        """Return the value of a complete answer: that of its JSON, or the text itself.

        Raises:
            ValueError: It is not what was asked for, or cannot be stored.
        """
        if "\0" in answer:
            raise ValueError("it contains the character NUL, which is not kept")
        if self.form == "regex":
            return answer
        if self.form == "choices":
            if answer not in orjson.loads(self.text):
                raise ValueError(f"{answer!r} is none of the choices")
            return answer
        value = orjson.loads(answer)
        if depth(value) > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        return value


def form_of(request: Mapping[str, Any]) -> Form | None:
    """Return the form of the structure that a request asks for, None if it asks for none."""
    return next((form for form in FORMS if form in request), None)


def structure_of(request: Mapping[str, Any]) -> Structure | None:
    """Return the structure that an effective request asks for."""
    form = form_of(request)
    if form is None:
        return None
    given = request[form]
    return Structure(form, given if isinstance(given, str) else orjson.dumps(given).decode())


def shown(request: dict[str, Any]) -> dict[str, Any]:
    """Return a stored request as it was submitted, with its schema as an object."""
    return request | {"schema": orjson.loads(request["schema"])} if "schema" in request else request
