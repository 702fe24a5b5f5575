"""JSON Schemas of structured answers: their parts, and what a model may make of them.

Everything that fits the enforceable schema fits the submitted one. It leaves out what a model would
lose its way in, or what no program could read: fields that nobody has named, numbers of a hundred
digits. Which schemas are taken at all is in schema_checks.py.
"""

from collections.abc import Iterator
from typing import Any

import orjson

#: Objects and lists within each other, of a schema or an answer.
MAX_DEPTH = 64
#: Whole numbers that every reader of JSON keeps exactly, and others of which there is no more.
MAX_INTEGER, MAX_NUMBER = 2**53 - 1, 10**15

#: Keywords by what they hold: a schema, a list of them, or schemas by name.
HOLDS_ONE = frozenset({"items", "additionalProperties"})
HOLDS_LIST = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
HOLDS_NAMES = frozenset({"properties", "patternProperties", "$defs", "definitions"})
_ENDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_COMBINED = frozenset({"$ref", "anyOf", "oneOf", "allOf", "patternProperties"})

Schema = dict[str, Any]
Path = tuple[str, ...]


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
    places = [each for _, each in places_in(schema)]
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


def relocated_schema(schema: Schema, place: str) -> Schema:
    """Return a schema as it is at another place: its references are to there.

    Args:
        place: A reference, such as #/$defs/0.
    """
    copy: Schema = orjson.loads(orjson.dumps(schema))
    for _, each in places_in(copy):
        if isinstance(each.get("$ref"), str) and each["$ref"].startswith("#"):
            each["$ref"] = place + each["$ref"].removeprefix("#")
    return copy


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


# ---- what is enforced --------------------------------------------------------------------


def _names_all(schema: Schema) -> bool:
    """True if an object names all fields that it requires."""
    required = schema.get("required") or []
    return isinstance(required, list) and {*required} <= schema["properties"].keys()


def _bound(schema: Schema) -> None:
    """Bound the numbers of a schema, where it does not, and lists none."""
    types, ends = types_of(schema), _ENDS & schema.keys()
    if not ("number" in types or (ends and not types)) or values_of(schema):
        return
    is_whole = "number" not in schema.get("type", ()) and "integer" in types
    most = MAX_INTEGER if is_whole else MAX_NUMBER
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


def places_in(schema: Schema) -> Iterator[tuple[Path, Schema]]:
    """Yield a schema and all schemas within it, each with its path."""
    left: list[tuple[Path, Schema]] = [((), schema)]
    while left:
        path, each = left.pop()
        yield path, each
        for keyword, value in each.items():
            left += [((*path, keyword, *name), one) for name, one in _within(keyword, value)]


def _within(keyword: str, value: object) -> Iterator[tuple[Path, Schema]]:
    held: list[tuple[Path, object]] = []
    if keyword in HOLDS_ONE:
        held = [((), value)]
    elif keyword in HOLDS_LIST and isinstance(value, list):
        held = [((str(number),), one) for number, one in enumerate(value)]
    elif keyword in HOLDS_NAMES and isinstance(value, dict):
        held = [((name,), one) for name, one in value.items()]
    yield from ((name, one) for name, one in held if isinstance(one, dict))


def target_of(schema: Schema, reference: str) -> Any:
    """Return what a reference within a schema refers to; None if there is nothing."""
    if not reference.startswith("#"):
        return None
    found: Any = schema
    for name in reference.removeprefix("#").split("/")[1:]:
        plain = name.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list):
            found = dict(enumerate(found)).get(int(plain)) if plain.isdecimal() else None
        else:
            found = found.get(plain) if isinstance(found, dict) else None
    return found


def types_of(schema: Schema) -> set[str]:
    """Types that a schema names; a whole number is a number too."""
    given = schema.get("type", [])
    types = {given} if isinstance(given, str) else {*given}
    return types | {"number"} if "integer" in types else types


def values_of(schema: object) -> set[str]:
    """Values of something that may have but a few, as JSON; empty if it may have any."""
    if not isinstance(schema, dict):
        return set()
    given = [schema["const"]] if "const" in schema else schema.get("enum", ())
    # 1 and 1.0 are the same in JSON Schema.
    plain = (int(each) if isinstance(each, float) and each.is_integer() else each for each in given)
    return {orjson.dumps(each, option=orjson.OPT_SORT_KEYS).decode() for each in plain}
