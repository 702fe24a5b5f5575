"""How response formats and tools become the structure of an item's answer."""

import json
from typing import Any

import pytest

from db.vocabulary.errors import RequestError
from tests.api.openai.test_requests import asked
from tests.served import CARD

STRUCTURED = CARD.model_copy(update={"structured": True})
SCHEMA = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "integer"}}}


def json_schema(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def tool(name: str = "x", parameters: Any = SCHEMA) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def choice(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def structure(**fields: Any) -> dict[str, Any]:
    request = asked(STRUCTURED, **fields)
    found = {
        name: request[name] for name in ("schema", "choices", "regex", "tool") if name in request
    }
    return found | ({"schema": json.loads(found["schema"])} if "schema" in found else {})


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"schema": {"type": "object"}}),
        ({"response_format": json_schema(SCHEMA)}, {"schema": SCHEMA}),
        ({"tools": [tool()], "tool_choice": "required"}, {"schema": SCHEMA, "tool": "x"}),
        (
            {"tools": [tool("y", {}), tool()], "tool_choice": choice("x")},
            {"schema": SCHEMA, "tool": "x"},
        ),
        (
            {"tools": [tool(parameters=None)], "tool_choice": "required"},
            {
                "schema": {"type": "object", "properties": {}, "additionalProperties": False},
                "tool": "x",
            },
        ),
        ({"tools": [tool()], "tool_choice": "none"}, {}),
        ({"tools": [], "tool_choice": "auto"}, {}),
        (
            {"tools": [tool()], "response_format": json_schema({"enum": [1]})},
            {"schema": {"enum": [1]}},
        ),
        (
            {"tools": [tool()], "tool_choice": "required", "response_format": json_schema({})},
            {"schema": SCHEMA, "tool": "x"},
        ),
        ({"schema": SCHEMA}, {"schema": SCHEMA}),
        ({"choices": ["a", "b"]}, {"choices": ["a", "b"]}),
        ({"regex": "[ab]"}, {"regex": "[ab]"}),
    ],
)
def test_what_a_program_asks_for_is_the_structure_of_the_item(
    fields: dict[str, Any], found: dict[str, Any]
) -> None:
    assert structure(**fields) == found


def test_the_fields_of_a_schema_keep_their_order() -> None:
    request = asked(STRUCTURED, response_format=json_schema(SCHEMA))

    assert list(json.loads(request["schema"])["properties"]) == ["z", "a"]


@pytest.mark.parametrize(
    ("fields", "where", "told"),
    [
        ({"response_format": {"type": "xml"}}, "response_format", "xml"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "required"),
        (
            {"response_format": json_schema({"uniqueItems": True})},
            "response_format.json_schema.schema",
            "'uniqueItems' is not supported",
        ),
        (
            {"response_format": json_schema({"type": "foo"})},
            "response_format.json_schema.schema",
            "Invalid type",
        ),
        (
            {"tools": [tool("y"), tool("x", {"if": {}})], "tool_choice": choice("x")},
            "tools[1].function.parameters",
            "'if' is not supported",
        ),
        ({"tools": [tool()]}, "tools", "only if they must"),
        ({"tools": [tool()], "tool_choice": "auto"}, "tool_choice", "only if they must"),
        ({"tool_choice": "required"}, "tool_choice", "there are no 'tools'"),
        (
            {"tools": [tool(), tool("y", {"if": {}})], "tool_choice": "required"},
            "tools[1].function.parameters",
            "'if' is not supported",
        ),
        ({"tools": [tool()], "tool_choice": choice("y")}, "tool_choice", "there is no tool 'y'"),
        ({"tools": [tool("a b")]}, "tools[0].function.name", "pattern"),
        (
            {"schema": SCHEMA, "response_format": json_schema(SCHEMA)},
            "schema",
            "an answer has one structure",
        ),
        ({"regex": "(", "choices": None}, "regex", "unclosed group"),
        ({"regex": "a", "choices": ["b"]}, "regex", "an answer has one structure"),
        ({"choices": ["a", "a"]}, "choices", "duplicate choice: 'a'"),
        ({"schema": SCHEMA, "stop": "}"}, "stop", "is not allowed for a structured answer"),
        ({"schema": SCHEMA, "no_repeat_ngram_size": 1}, "no_repeat_ngram_size", "not allowed"),
        ({"schema": SCHEMA, "num_beams": 2}, "num_beams", "is not allowed for a structured"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_where_it_was_sent(
    fields: dict[str, Any], where: str, told: str
) -> None:
    with pytest.raises(RequestError, match=told) as caught:
        asked(STRUCTURED, **fields)

    assert caught.value.field == where


def test_of_several_tools_the_answer_names_the_one_that_it_calls() -> None:
    node = {
        "$defs": {"n": {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}}}},
        "$ref": "#/$defs/n",
    }

    found = structure(tools=[tool("a", node), tool("b", {})], tool_choice="required")

    assert found["tool"] == "*"
    branches = found["schema"]["anyOf"]
    assert [each["properties"]["name"]["const"] for each in branches] == ["a", "b"]
    assert branches[0]["properties"]["arguments"] == {"$ref": "#/$defs/0"}
    moved = found["schema"]["$defs"]["0"]
    assert moved["$ref"] == "#/$defs/0/$defs/n"
    assert moved["$defs"]["n"]["properties"]["next"] == {"$ref": "#/$defs/0/$defs/n"}


def test_calls_and_results_of_tools_are_told_to_the_model_as_texts() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "x", "arguments": '{"a":1}'}}
    messages = [
        {"role": "user", "content": "Do."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "done"},
        {"role": "assistant", "content": "", "tool_calls": [call, call]},
        {"role": "tool", "tool_call_id": "1", "content": ""},
    ]

    request = asked(messages=messages)

    told = {"type": "text", "text": '{"name": "x", "arguments": {"a":1}}'}
    assert [(each["role"], each["content"]) for each in request["messages"][1:]] == [
        ("assistant", [told]),
        ("user", [{"type": "text", "text": "done"}]),
        ("assistant", [told, told]),
        ("user", [{"type": "text", "text": "(nothing)"}]),
    ]


def test_a_model_without_structured_answers_says_so() -> None:
    with pytest.raises(RequestError, match="gives no structured answers") as caught:
        asked(tools=[tool()], tool_choice="required")

    assert caught.value.field == "tools[0].function.parameters"
