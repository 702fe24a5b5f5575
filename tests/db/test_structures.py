"""Structures of answers: what is taken, what is refused by name, and what a hostile one costs."""

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from db.grammars import checks
from db.grammars.checks import check_structure
from db.vocabulary.errors import QuotaExceeded, RequestError, StorageError
from db.vocabulary.json_schemas import MAX_DEPTH, enforceable
from db.vocabulary.schema_checks import MAX_SCHEMA_BYTES, schema_text
from db.vocabulary.structures import Structure, structure_of
from tests.servers import PATIENCE_SECONDS, wait_until

NAME = {"type": "string", "minLength": 1}
NODE_OR_NONE = {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}


Children = queue.SimpleQueue[checks.Child]


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Iterator[Children]:
    """No child has been started yet; those that are end with the test."""
    idle: Children = queue.SimpleQueue()
    monkeypatch.setattr(checks, "_idle", idle)
    yield idle
    while not idle.empty():
        idle.get().end()


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
        ({"type": "array", "uniqueItems": True}, "keyword 'uniqueItems' is not supported"),
        ({"const": "a\0b"}, "the character NUL"),
        (fields(a={"not": {}}), r"'not' is not supported \(at properties.a\)"),
        ({"anyOf": [{}, {"minLenght": 3}]}, r"'minLenght' is not supported \(at anyOf.1\)"),
        ({"$defs": {"x": {"if": {}}}}, r"'if' is not supported \(at \$defs.x\)"),
        ({"x-guidance": {"whitespace_flexible": True}}, "'x-guidance' is not supported"),
        ({"enum": ["x" * MAX_SCHEMA_BYTES]}, f"it may have {MAX_SCHEMA_BYTES}"),
        ({"maximum": 10**400}, "cannot be written as JSON"),
        ({"items": [{}]}, "'items' has a value that it may not have"),
        ({"oneOf": [{"type": 5}, {"type": "string"}]}, r"'type' has a value .*at oneOf.0"),
        ({"oneOf": [{"$ref": "#/title"}, {}], "title": "x"}, "no schema '#/title'"),
        ({"required": 5}, "'required' has a value"),
        ({"required": [["a"]], "properties": {}}, "'required' has a value"),
        ({"properties": [1]}, "'properties' has a value"),
        ({"minimum": True}, "'minimum' has a value"),
        ({"pattern": "a\0"}, "the character NUL"),
        ({"$ref": "http://127.0.0.1/x"}, "no schema 'http://127.0.0.1/x' within this one"),
        ({"$ref": "#/default", "default": {"foo": 1}}, "no schema '#/default' within this one"),
        ({"$ref": "#/$defs/x/y"}, "no schema"),
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

    with pytest.raises(ValueError, match=f"more than {MAX_DEPTH} deep"):
        schema_text(deep)


def enforced(schema: dict[str, Any]) -> dict[str, Any]:
    return enforceable(schema_text(schema))


def test_objects_have_no_fields_but_those_that_are_named_unless_the_schema_says_so() -> None:
    open_one = {**fields(a=NAME), "additionalProperties": NAME}
    unnamed = {**fields(a=NAME), "required": ["a", "b"]}

    made = enforced({"$defs": {"x": fields(a=NAME)}, "properties": {"y": open_one, "z": unnamed}})

    assert made["$defs"]["x"]["additionalProperties"] is False
    assert made["properties"] == {"y": open_one, "z": unnamed}
    assert made["additionalProperties"] is False


def test_schemas_that_are_combined_stay_open_for_each_other() -> None:
    combined = {"allOf": [fields(a=NAME), fields(b=NAME)]}

    assert enforced(combined) == combined


@pytest.mark.parametrize(
    ("schema", "least", "most"),
    [
        ({"type": "integer"}, -(2**53 - 1), 2**53 - 1),
        ({"type": ["number", "null"]}, -(10**15), 10**15),
        ({"type": "number", "exclusiveMinimum": 0}, None, 10**15),
        ({"type": "integer", "maximum": 5}, -(2**53 - 1), 5),
        ({"type": "number", "minimum": 1e20}, 1e20, None),
        ({"type": "string"}, None, None),
        ({"minimum": 0}, 0, 10**15),
        ({"type": "integer", "enum": [2**60]}, None, None),
    ],
)
def test_numbers_have_an_end(schema: dict[str, Any], least: float | None, most: float) -> None:
    made = enforced(schema)

    assert (made.get("minimum"), made.get("maximum")) == (least, most)


CIRCLE = fields(kind={"const": "circle"}, radius={"type": "number"})
SQUARE = fields(kind={"enum": ["square"]}, side={"type": "number"})


@pytest.mark.parametrize(
    "branches",
    [
        [CIRCLE, SQUARE],
        [{"$ref": "#/$defs/c"}, {"$ref": "#/$defs/s"}],
        [{"type": "integer"}, {"type": ["string", "null"]}],
        [{"const": "a"}, {"enum": ["b", "c"]}],
    ],
)
def test_branches_that_exclude_each_other_are_alternatives(branches: list[Any]) -> None:
    made = enforced({"$defs": {"c": CIRCLE, "s": SQUARE}, "oneOf": branches})

    assert len(made["anyOf"]) == 2
    assert "oneOf" not in made
    check_structure(structure({"$defs": {"c": CIRCLE, "s": SQUARE}, "oneOf": branches}), 1)


@pytest.mark.parametrize(
    "branches",
    [
        [{"type": "integer"}, {"type": "number"}],
        [{"const": 1}, {"type": "integer"}],
        [CIRCLE, CIRCLE],
        [CIRCLE, fields(side=NAME)],
        [{**CIRCLE, "required": []}, SQUARE],
        [{"const": 1}, {"const": 1.0}],
        [{k: v for k, v in CIRCLE.items() if k != "type"}, SQUARE],
    ],
)
def test_branches_that_may_overlap_are_refused(branches: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"branches of 'oneOf' may overlap \(at properties.x\)"):
        schema_text({"properties": {"x": {"oneOf": branches}}})


def test_an_error_shows_the_beginning_of_a_long_path_and_costs_no_more() -> None:
    many: dict[str, Any] = {"properties": {str(number): {} for number in range(4_000)}}
    named = {"properties": {"k" * 20_000: {**many, "nope": 1}}}

    with pytest.raises(ValueError, match="'nope' is not supported") as refused:
        schema_text(named)

    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("found", "answer", "told"),
    [
        (Structure("choices", '["a","b"]'), "c", "none of the choices"),
        (Structure("regex", "a.b"), "a\0b", "NUL"),
        (structure({}), "[" * 70 + "]" * 70, "nested more than 64 deep"),
        (structure({}), "1e999", "infinity"),
        (structure({}), '{"a":', "unexpected end"),
    ],
)
def test_an_answer_that_cannot_be_read_is_none(found: Structure, answer: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        found.read(answer)


@pytest.mark.parametrize(
    "good",
    [
        structure({}),
        structure(fields(a=NAME, b={"type": ["number", "null"]})),
        structure({"$defs": {"n": fields(next=NODE_OR_NONE)}, "$ref": "#/$defs/n"}),
        structure({"type": "string", "format": "date"}),
        Structure("choices", json.dumps(["a", "b c", "x|y"])),
        Structure("regex", r"^\d{3}-[a-z]+$"),
        Structure("regex", "(?x) ab # c"),
    ],
)
def test_what_can_be_followed_is_taken(good: Structure) -> None:
    check_structure(good, 1)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (structure({"type": "foo"}), "Invalid type: foo"),
        (structure({"$ref": "#"}), "no text fits it"),
        (structure({"enum": []}), "^Unsatisfiable schema"),
        (structure({"type": "string", "format": "idn-email"}), "Unknown format"),
        (structure({"type": "integer", "minimum": 5, "maximum": 3}), "maximum"),
        (Structure("regex", "(?=x)y"), "look-around"),
        (Structure("regex", "("), "unclosed group"),
        (Structure("regex", "a)|(?:b"), "unopened group"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_the_reason(bad: Structure, told: str) -> None:
    with pytest.raises(RequestError, match=told) as refused:
        check_structure(bad, 1)

    assert refused.value.field == bad.form


def test_what_becomes_too_complex_after_some_characters_is_refused() -> None:
    with pytest.raises(RequestError, match="too many"):
        check_structure(Structure("regex", "(([a-z]{1,200}){1,200}){1,200}"), 1)


def test_what_cannot_be_checked_in_time_is_tried_again_later(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A child that has to be started takes longer than no time.
    with monkeypatch.context() as patched:
        patched.setattr(checks, "WALL_SECONDS", 0.0)
        with pytest.raises(StorageError, match="cannot be checked now"):
            check_structure(structure(fields(slow=NAME)), 1)

    check_structure(structure(fields(slow=NAME)), 1)


def test_without_a_process_a_structure_is_neither_good_nor_bad(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere")

    with pytest.raises(StorageError, match="cannot be checked now"):
        check_structure(structure(fields(no_process=NAME)), 1)


def test_a_check_that_kills_its_process_is_a_refusal(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_child_that_died_of_something_else_is_replaced(children: Children) -> None:
    check_structure(structure(fields(first=NAME)), 1)
    child = children.get()
    os.kill(child.pid, signal.SIGKILL)
    children.put(child)

    check_structure(structure(fields(second=NAME)), 1)

    replaced = children.get()
    children.put(replaced)
    assert replaced is not child


def test_limits_of_the_process_are_kept(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    within = "import resource; resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9)); "
    monkeypatch.setattr(checks, "PROGRAM", within + checks.PROGRAM)

    check_structure(structure(fields(within_a_limit=NAME)), 1)


def test_an_owner_with_many_structures_holds_up_no_other_and_few_of_its_own_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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
    monkeypatch.setattr(checks, "MAX_WAITING", 8 - checks.CHILDREN)
    with pytest.raises(QuotaExceeded, match="send fewer at a time"):
        check_structure(Structure("regex", "greedy 9"), 1)
    other = threading.Thread(target=check_structure, args=(Structure("regex", "other"), 2))
    other.start()
    wait_until(lambda: checks.turns.waiting() == 9 - checks.CHILDREN, what="the other owner")
    goes_on.set()
    for thread in (*greedy, other):
        thread.join()

    assert order.index("other") <= checks.CHILDREN + 1
