"""Structures: what an answer must look like, where its request says so.

    schema    a JSON Schema      the answer is JSON that the schema describes
    choices   a list of texts    the answer is one of them
    regex     a pattern          the answer matches it from its beginning to its end

They are enforced while the answer is generated: see db/grammars.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

Form = Literal["schema", "choices", "regex"]
FORMS: tuple[Form, ...] = ("schema", "choices", "regex")
#: Options that would end an answer before it is complete, or take tokens from it that it needs.
UNSTRUCTURED_OPTIONS = frozenset({"min_new_tokens", "no_repeat_ngram_size", "num_beams", "stop"})
#: What JSON mode of OpenAI's API asks for.
ANY_OBJECT = '{"type":"object"}'

MAX_SCHEMA_BYTES = 64 * 2**10
#: Objects and lists within each other, of a schema.
MAX_SCHEMA_DEPTH = 64

#: Keywords by what they hold: a schema, a list of them, or schemas by name.
_ONE = frozenset({"items", "additionalProperties"})
_LISTED = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions"})
_RULES = frozenset(
    {"type", "const", "enum", "$ref", "required", "minProperties", "maxProperties", "minItems"}
    | {"maxItems", "minLength", "maxLength", "pattern", "format", "minimum", "maximum"}
    | {"exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
)
#: Keywords that say something to people and programs, and nothing about what is valid.
_ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"}
    | {"$schema", "$id", "$comment", "discriminator"}
)
_KNOWN = _ONE | _LISTED | _NAMED | _RULES | _ANNOTATIONS
_COMBINED = frozenset({"$ref", "anyOf", "oneOf", "allOf", "patternProperties"})

_NUL = re.compile(r"((?<!\\)(?:\\\\)*)\\u0000")

#: A schema within a schema, and the path to it.
_Place = tuple[str, dict[str, Any]]


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
            ValueError: It is no JSON.
        """
        if self.form != "schema":
            return answer
        return orjson.loads(_NUL.sub(r"\1\\ufffd", answer))  # no database stores that character


def structure_of(request: Mapping[str, Any]) -> Structure | None:
    """Return the structure that an effective request asks for."""
    for form in FORMS:
        if form in request:
            given = request[form]
            return Structure(
                form, given if isinstance(given, str) else orjson.dumps(given).decode()
            )
    return None


def shown(request: dict[str, Any]) -> dict[str, Any]:
    """Return a stored request as it was submitted, with its schema as an object."""
    return request | {"schema": orjson.loads(request["schema"])} if "schema" in request else request


def schema_text(given: object) -> str:
    """Return a JSON Schema as the text in which it is stored.

    As a text, because Postgres orders the names in an object, and an answer has its fields in the
    order of the schema.

    Raises:
        ValueError: It is no schema, too large, or has a keyword that is not supported.
    """
    if isinstance(given, str):
        given = _parsed(given)
    if not isinstance(given, dict):
        raise ValueError("a JSON Schema is an object")
    if _depth(given) > MAX_SCHEMA_DEPTH:
        raise ValueError(f"the schema is nested more than {MAX_SCHEMA_DEPTH} deep")
    _check_keywords(given)
    try:
        text = orjson.dumps(given).decode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"the schema cannot be written as JSON: {error}") from error
    if len(text.encode()) > MAX_SCHEMA_BYTES:
        raise ValueError(
            f"the schema has {len(text.encode())} bytes; it may have {MAX_SCHEMA_BYTES}"
        )
    return text


def _check_keywords(schema: dict[str, Any]) -> None:
    for path, each in _places(schema):
        for keyword in each.keys() - _KNOWN:
            where = f" (at {path})" if path else ""
            raise ValueError(f"the keyword {keyword!r} is not supported{where}; leave it out")


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema whose objects have no other fields than those that it names.

    JSON Schema allows any others unless `additionalProperties` says not, and a model that may
    invent fields does not stop. Schemas that are combined with others stay as they are: there a
    closed one might exclude the fields of the next.
    """
    places = [each for _, each in _places(schema)]
    if any(
        "allOf" in each or ("properties" in each and _COMBINED & each.keys()) for each in places
    ):
        return schema
    copy: dict[str, Any] = orjson.loads(orjson.dumps(schema))
    for _, each in _places(copy):
        if "properties" in each:
            each.setdefault("additionalProperties", False)
    return copy


def _parsed(text: str) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"the schema is not JSON: {error}") from error


def _depth(value: object) -> int:
    """Count how deep objects and lists are nested, without recursion: anybody may send it."""
    depth, level = 0, [value]
    while level and depth <= MAX_SCHEMA_DEPTH:
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        depth += bool(level)
    return depth


def _places(schema: dict[str, Any]) -> Iterator[_Place]:
    """Yield a schema and all schemas within it."""
    left: list[_Place] = [("", schema)]
    while left:
        path, each = left.pop()
        yield path, each
        for keyword, value in each.items():
            left += _within(f"{path}.{keyword}".removeprefix("."), keyword, value)


def _within(path: str, keyword: str, value: object) -> list[_Place]:
    if keyword in _ONE and isinstance(value, dict):
        return [(path, value)]
    if keyword in _LISTED and isinstance(value, list):
        return [(f"{path}.{n}", one) for n, one in enumerate(value) if isinstance(one, dict)]
    if keyword in _NAMED and isinstance(value, dict):
        return [(f"{path}.{name}", one) for name, one in value.items() if isinstance(one, dict)]
    return []
