"""Which JSON Schemas are taken for structured answers, checked without recursion.

A schema is taken whole or refused: what cannot be enforced is named, and nothing is ignored.
Whether a grammar can be made of it is tried later, in db/grammars.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import orjson

from db.vocabulary.json_schemas import (
    HOLDS_LIST,
    HOLDS_NAMES,
    HOLDS_ONE,
    MAX_DEPTH,
    Path,
    Schema,
    depth,
    places_in,
    target_of,
    types_of,
    values_of,
)

MAX_SCHEMA_BYTES = 64 * 2**10
#: Characters of a path that an error shows.
SHOWN_PATH = 100

_RULES = frozenset(
    {"type", "const", "enum", "$ref", "required", "minItems", "maxItems", "minLength", "maxLength"}
    | {"pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
    | {"multipleOf"}
)
#: Keywords that say something to people and programs, and nothing about what is valid.
_ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"}
    | {"$schema", "$id", "$comment", "discriminator", "contentMediaType", "contentEncoding"}
)
_KNOWN = HOLDS_ONE | HOLDS_LIST | HOLDS_NAMES | _RULES | _ANNOTATIONS


def schema_text(given: object) -> str:
    """Return a JSON Schema as the text in which it is stored.

    As a text, because Postgres orders the names in an object, and an answer has its fields in the
    order of the schema.

    Raises:
        ValueError: It is no schema, too large, or has a keyword that is not supported.
    """
    schema = _parsed(given) if isinstance(given, str) else given
    if not isinstance(schema, dict):
        raise ValueError("a JSON Schema is an object")
    if depth(schema) > MAX_DEPTH:
        raise ValueError(f"the schema is nested more than {MAX_DEPTH} deep")
    try:
        text = orjson.dumps(schema)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the schema cannot be written as JSON: {error}") from error
    if len(text) > MAX_SCHEMA_BYTES:
        raise ValueError(f"the schema has {len(text)} bytes; it may have {MAX_SCHEMA_BYTES}")
    if _has_nul(schema):
        raise ValueError("the character NUL is not allowed")  # no database stores it
    _check(schema)
    return text.decode()


def _has_nul(value: object) -> bool:
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            left += [*each, *each.values()]
        elif isinstance(each, list):
            left += each
        elif isinstance(each, str) and "\0" in each:
            return True
    return False


def _parsed(text: str) -> object:
    if len(text) > MAX_SCHEMA_BYTES:
        raise ValueError(f"the schema has {len(text)} bytes; it may have {MAX_SCHEMA_BYTES}")
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"the schema is not JSON: {error}") from error


def _check(schema: Schema) -> None:
    places = list(places_in(schema))
    for path, each in places:
        _check_keywords(path, each)
    known = {id(each) for _, each in places}
    for path, each in places:
        if "$ref" in each and id(target_of(schema, each["$ref"])) not in known:
            where = each["$ref"][:SHOWN_PATH]
            raise ValueError(f"there is no schema {where!r} within this one{_at(path)}")
    for path, each in places:
        if "oneOf" in each and not _exclude_each_other(schema, each["oneOf"]):
            raise ValueError(f"branches of 'oneOf' may overlap{_at(path)}: use 'anyOf'")


def _check_keywords(path: Path, schema: Schema) -> None:
    for keyword, value in schema.items():
        if keyword not in _KNOWN:
            raise ValueError(f"the keyword {keyword[:SHOWN_PATH]!r} is not supported{_at(path)}")
        if keyword in _FORMS and not _FORMS[keyword](value):
            raise ValueError(f"{keyword!r} has a value that it may not have{_at(path)}")


def _is_schema(value: object) -> bool:
    return isinstance(value, dict | bool)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


#: What values of keywords that are read here must be; all else is for the grammar to say.
_FORMS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(HOLDS_ONE, _is_schema),
    **dict.fromkeys(
        HOLDS_LIST, lambda value: isinstance(value, list) and all(map(_is_schema, value))
    ),
    **dict.fromkeys(
        HOLDS_NAMES, lambda value: isinstance(value, dict) and all(map(_is_schema, value.values()))
    ),
    "type": lambda value: isinstance(value, str) or _is_texts(value),
    "required": _is_texts,
    "enum": lambda value: isinstance(value, list),
    "$ref": lambda value: isinstance(value, str),
    **dict.fromkeys(
        ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
        lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    ),
}


def _at(path: Path) -> str:
    shown = ".".join(path)
    return f" (at {shown[:SHOWN_PATH]})" if shown else ""


def _exclude_each_other(schema: Schema, branches: list[Any]) -> bool:
    """True if no value fits two branches.

    By their types, by the few values that they have, or, of objects, by a field that all require.
    """
    resolved = [
        target_of(schema, each["$ref"]) if "$ref" in each else each
        for each in branches
        if isinstance(each, dict)
    ]
    if len(resolved) != len(branches):
        return False
    if _are_disjoint(map(types_of, resolved)) or _are_disjoint(map(values_of, resolved)):
        return True
    if any(types_of(each) != {"object"} for each in resolved):
        return False
    shared = set.intersection(*({*each.get("required", ())} for each in resolved))
    return any(
        _are_disjoint(values_of(each.get("properties", {}).get(name)) for each in resolved)
        for name in shared
    )


def _are_disjoint(sets: Iterable[set[str]]) -> bool:
    listed = list(sets)
    return all(listed) and all(not one & other for one, other in itertools.combinations(listed, 2))
