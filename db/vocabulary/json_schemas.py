"""JSON Schemas of structured answers: which are taken, and what a model may make of them.

    submitted ─▶ schema_text: refused, or the text that is stored
    stored    ─▶ enforceable: a schema that allows less, and nothing else

Everything that fits the enforceable schema fits the submitted one. It leaves out what a model would
lose its way in, or what no program could read: fields that nobody has named, numbers of a hundred
digits.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import orjson

MAX_SCHEMA_BYTES = 64 * 2**10
#: Objects and lists within each other, of a schema or an answer.
MAX_DEPTH = 64
#: Whole numbers that every reader of JSON keeps exactly, and others of which there is no more.
MAX_INTEGER, MAX_NUMBER = 2**53 - 1, 10**15
#: Characters of a path that an error shows.
SHOWN_PATH = 100

#: Keywords by what they hold: a schema, a list of them, or schemas by name.
_ONE = frozenset({"items", "additionalProperties"})
_LISTED = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions"})
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
_KNOWN = _ONE | _LISTED | _NAMED | _RULES | _ANNOTATIONS
_COMBINED = frozenset({"$ref", "anyOf", "oneOf", "allOf", "patternProperties"})

Schema = dict[str, Any]
Path = tuple[str, ...]


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
    if b"\\u0000" in text:
        raise ValueError("the character NUL is not allowed")  # no database stores it
    _check(schema)
    return text.decode()


def enforceable(text: str) -> Schema:
    """Return a schema that allows only what a model is meant to say, of one that was taken.

    * An object has no fields but those that are named: JSON Schema allows any others unless
      `additionalProperties` says not, and a model that may invent fields does not stop. Schemas
      that are combined with others stay as they are: a closed one might exclude the fields of the
      next.
    * Numbers have an end.
    * `oneOf` is `anyOf`, because its branches exclude each other.
    """
    schema: Schema = orjson.loads(text)
    places = [each for _, each in _places(schema)]
    is_combined = any(
        "allOf" in each or ("properties" in each and _COMBINED & each.keys()) for each in places
    )
    for each in places:
        if "properties" in each and not is_combined and _names_all(each):
            each.setdefault("additionalProperties", False)
        if "oneOf" in each and "anyOf" not in each:
            each["anyOf"] = each.pop("oneOf")
        _bound(each)
    return schema


def depth(value: object, most: int = MAX_DEPTH) -> int:
    """Count how deep objects and lists are nested, up to `most` + 1.

    Without recursion, because anybody may send it.
    """
    found, level = 0, [value]
    while level and found <= most:
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        found += bool(level)
    return found


def _parsed(text: str) -> object:
    if len(text) > MAX_SCHEMA_BYTES:
        raise ValueError(f"the schema has {len(text)} bytes; it may have {MAX_SCHEMA_BYTES}")
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"the schema is not JSON: {error}") from error


# ---- checks -----------------------------------------------------------------------------


def _check(schema: Schema) -> None:
    places = list(_places(schema))
    known = {id(each) for _, each in places}
    for path, each in places:
        for keyword in each:
            if keyword not in _KNOWN:
                raise ValueError(
                    f"the keyword {keyword[:SHOWN_PATH]!r} is not supported{_at(path)}"
                )
        if isinstance(each.get("items"), list):
            raise ValueError(f"'items' is a list{_at(path)}: it is called 'prefixItems' now")
        reference = each.get("$ref", "#")
        target = _target(schema, reference)
        if id(target) not in known:
            where = str(reference)[:SHOWN_PATH]
            raise ValueError(f"there is no schema {where!r} within this one{_at(path)}")
        if "oneOf" in each and not _exclude_each_other(schema, each["oneOf"]):
            raise ValueError(f"branches of 'oneOf' may overlap{_at(path)}: use 'anyOf'")


def _at(path: Path) -> str:
    shown = ".".join(path)
    return f" (at {shown[:SHOWN_PATH]})" if shown else ""


def _target(schema: Schema, reference: object) -> Any:
    """Return what a reference within a schema refers to; None if there is nothing."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    found: Any = schema
    for name in reference.removeprefix("#").split("/")[1:]:
        plain = name.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list):
            found = dict(enumerate(found)).get(int(plain)) if plain.isdecimal() else None
        else:
            found = found.get(plain) if isinstance(found, dict) else None
    return found


def _exclude_each_other(schema: Schema, branches: object) -> bool:
    """True if no value fits two branches, by their types or by a field that all require."""
    if not isinstance(branches, list):
        return True  # refused for that
    resolved = [
        _target(schema, each.get("$ref", "")) or each for each in branches if isinstance(each, dict)
    ]
    if len(resolved) != len(branches):
        return True
    if _are_disjoint([_types(each) for each in resolved]):
        return True
    fields = [each.get("properties") for each in resolved]
    shared = [set(each.get("required") or ()) for each in resolved]
    names = set.intersection(*shared) if shared else set()
    return all(isinstance(each, dict) for each in fields) and any(
        _are_disjoint([_values((each or {}).get(name)) for each in fields]) for name in names
    )


def _are_disjoint(sets: list[set[str]]) -> bool:
    return all(sets) and all(not one & other for one, other in itertools.combinations(sets, 2))


def _types(schema: Schema) -> set[str]:
    given = schema.get("type", [])
    types = {given} if isinstance(given, str) else {each for each in given if isinstance(each, str)}
    return types | {"number"} if "integer" in types else types


def _values(schema: object) -> set[str]:
    """Values of a field that may have but a few, as JSON; empty if it may have any."""
    if not isinstance(schema, dict):
        return set()
    given = [schema["const"]] if "const" in schema else schema.get("enum")
    return {orjson.dumps(each).decode() for each in given} if isinstance(given, list) else set()


# ---- what is enforced --------------------------------------------------------------------


def _names_all(schema: Schema) -> bool:
    """True if an object names all fields that it requires."""
    required = schema.get("required") or []
    return isinstance(required, list) and {*required} <= schema["properties"].keys()


def _bound(schema: Schema) -> None:
    """Bound the numbers of a schema, where it does not."""
    types = _types(schema)
    if "number" not in types:
        return
    given = schema["type"]
    most = MAX_INTEGER if "number" not in given else MAX_NUMBER
    lower = schema.get("minimum", schema.get("exclusiveMinimum"))
    upper = schema.get("maximum", schema.get("exclusiveMaximum"))
    if lower is None and _is_below(-most, upper):
        schema["minimum"] = -most
    if upper is None and _is_below(lower, most):
        schema["maximum"] = most


def _is_below(lower: object, upper: object) -> bool:
    """True unless both are numbers, and no number fits between them."""
    both = isinstance(lower, int | float) and isinstance(upper, int | float)
    return not both or bool(lower < upper)  # type: ignore[operator]


# ---- schemas within schemas --------------------------------------------------------------


def _places(schema: Schema) -> Iterator[tuple[Path, Schema]]:
    """Yield a schema and all schemas within it, each with its path."""
    left: list[tuple[Path, Schema]] = [((), schema)]
    while left:
        path, each = left.pop()
        yield path, each
        for keyword, value in each.items():
            left += [((*path, keyword, *name), one) for name, one in _within(keyword, value)]


def _within(keyword: str, value: object) -> Iterator[tuple[Path, Schema]]:
    held: list[tuple[Path, object]] = []
    if keyword in _ONE:
        held = [((), value)]
    elif keyword in _LISTED and isinstance(value, list):
        held = [((str(number),), one) for number, one in enumerate(value)]
    elif keyword in _NAMED and isinstance(value, dict):
        held = [((name,), one) for name, one in value.items()]
    yield from ((name, one) for name, one in held if isinstance(one, dict))
