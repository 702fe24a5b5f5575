"""Structures of answers: what is taken, what is refused by name, and what a hostile one costs."""

import json
import threading
from typing import Any

import pytest

from db.grammars import checks
from db.grammars.checks import check_structure
from db.vocabulary.errors import RequestError
from db.vocabulary.structures import (
    MAX_SCHEMA_BYTES,
    MAX_SCHEMA_DEPTH,
    Structure,
    closed,
    schema_text,
    structure_of,
)
from tests.servers import PATIENCE_SECONDS, wait_until

NAME = {"type": "string", "minLength": 1}
NODE_OR_NONE = {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}


def fields(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def structure(schema: dict[str, Any]) -> Structure:
    return Structure("schema", schema_text(schema))


def test_a_schema_keeps_the_order_of_its_fields() -> None:
    given = fields(reasoning=NAME, answer=NAME, a=NAME)

    stored = structure_of({"schema": schema_text(given)})

    assert stored
    assert list(json.loads(stored.text)["properties"]) == ["reasoning", "answer", "a"]
    assert schema_text(json.dumps(given)) == stored.text  # it may be given as a text, too


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ([], "an object"),
        ("{", "not JSON"),
        ({"type": "array", "uniqueItems": True}, "'uniqueItems' is not supported; leave it out"),
        (fields(a={"not": {}}), r"'not' is not supported \(at properties.a\)"),
        ({"anyOf": [{}, {"minLenght": 3}]}, r"'minLenght' is not supported \(at anyOf.1\)"),
        ({"$defs": {"x": {"if": {}}}}, r"'if' is not supported \(at \$defs.x\)"),
        ({"x-guidance": {"whitespace_flexible": True}}, "'x-guidance' is not supported"),
        ({"enum": ["x" * MAX_SCHEMA_BYTES]}, f"it may have {MAX_SCHEMA_BYTES}"),
        ({"maximum": 10**400}, "cannot be written as JSON"),
    ],
)
def test_what_a_schema_may_not_have_is_named(schema: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        schema_text(schema)


def test_a_field_may_have_the_name_of_a_keyword_that_is_not_supported() -> None:
    schema_text(fields(uniqueItems=NAME, **{"if": NAME}))


def test_a_schema_of_any_depth_is_refused_without_a_recursion() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"items": deep}

    with pytest.raises(ValueError, match=f"more than {MAX_SCHEMA_DEPTH} deep"):
        schema_text(deep)


def test_objects_have_no_fields_but_those_that_are_named_unless_the_schema_says_so() -> None:
    open_one = {**fields(a=NAME), "additionalProperties": NAME}

    both = closed({"$defs": {"x": fields(a=NAME)}, "properties": {"y": open_one}})

    assert both["$defs"]["x"]["additionalProperties"] is False
    assert both["properties"]["y"] == open_one
    assert both["additionalProperties"] is False


def test_schemas_that_are_combined_stay_open_for_each_other() -> None:
    combined = {"allOf": [fields(a=NAME), fields(b=NAME)]}

    assert closed(combined) == combined


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (r'["a\u0000b"]', ["a\ufffdb"]),
        (r'["a\\u0000b"]', [r"a\u0000b"]),
        (r'["\\\u0000"]', ["\\\ufffd"]),
    ],
)
def test_the_character_that_no_database_stores_is_replaced_in_a_value(
    answer: str, value: list[str]
) -> None:
    assert Structure("schema", "{}").read(answer) == value


@pytest.mark.parametrize(
    "good",
    [
        structure({}),
        structure(fields(a=NAME, b={"type": ["number", "null"]})),
        structure({"$defs": {"n": fields(next=NODE_OR_NONE)}, "$ref": "#/$defs/n"}),
        structure({"type": "string", "format": "date"}),
        Structure("choices", json.dumps(["a", "b c", "x|y"])),
        Structure("regex", r"^\d{3}-[a-z]+$"),
    ],
)
def test_what_can_be_followed_is_taken(good: Structure) -> None:
    check_structure(good, 1)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (structure({"type": "foo"}), "Invalid type: foo"),
        (structure({"$ref": "http://127.0.0.1/x"}), "is not present"),
        (structure({"enum": []}), "^Unsatisfiable schema"),
        (structure({"type": "string", "format": "idn-email"}), "Unknown format"),
        (structure({"type": "integer", "minimum": 5, "maximum": 3}), "maximum"),
        (Structure("regex", "(?=x)y"), "look-around"),
        (Structure("regex", "("), "unclosed group"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_the_reason(bad: Structure, told: str) -> None:
    with pytest.raises(RequestError, match=told) as refused:
        check_structure(bad, 1)

    assert refused.value.field == bad.form


def test_what_becomes_too_complex_after_some_characters_is_refused() -> None:
    with pytest.raises(RequestError, match="too many"):
        check_structure(Structure("regex", "(([a-z]{1,200}){1,200}){1,200}"), 1)


def test_a_check_that_takes_too_long_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "WALL_SECONDS", 0.0)

    with pytest.raises(RequestError, match="takes too long to prepare"):
        check_structure(structure(fields(slow=NAME)), 1)


def test_a_check_that_kills_its_process_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "PROGRAM", "import os; os.abort()")

    with pytest.raises(RequestError, match="too much time or memory"):
        check_structure(structure(fields(deadly=NAME)), 1)


def test_what_was_checked_is_known_without_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    known, other = structure(fields(known=NAME)), structure(fields(other=NAME))
    check_structure(known, 1)

    def fail(_: Structure) -> str:
        raise AssertionError("a process was started")

    monkeypatch.setattr(checks, "_checked", fail)

    check_structure(known, 2)
    with pytest.raises(AssertionError):
        check_structure(other, 2)


def test_an_owner_with_many_structures_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    goes_on = threading.Event()

    def slow(checked: Structure) -> str:
        order.append(checked.text)
        goes_on.wait(PATIENCE_SECONDS)
        return ""

    monkeypatch.setattr(checks, "_checked", slow)
    greedy = [
        threading.Thread(target=check_structure, args=(Structure("regex", f"greedy {n}"), 1))
        for n in range(8)
    ]
    for thread in greedy:
        thread.start()
    wait_until(lambda: len(order) == checks.CHILDREN, what="the first checks")
    wait_until(lambda: checks.turns.waiting() == 8 - checks.CHILDREN, what="those that wait")
    other = threading.Thread(target=check_structure, args=(Structure("regex", "other"), 2))
    other.start()
    wait_until(lambda: checks.turns.waiting() == 9 - checks.CHILDREN, what="the other owner")
    goes_on.set()
    for thread in (*greedy, other):
        thread.join()

    assert order.index("other") <= checks.CHILDREN + 1
