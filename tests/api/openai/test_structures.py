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
            {"schema": {"type": "object"}, "tool": "x"},
        ),
        ({"tools": [tool()], "tool_choice": "none"}, {}),
        ({"tools": [], "tool_choice": "auto"}, {}),
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
        ({"tools": [tool()]}, "tool_choice", "only if they must"),
        ({"tools": [tool()], "tool_choice": "auto"}, "tool_choice", "only if they must"),
        ({"tools": [tool(), tool("y")], "tool_choice": "required"}, "tool_choice", "name one"),
        ({"tools": [tool()], "tool_choice": choice("y")}, "tool_choice", "there is no tool 'y'"),
        ({"tools": [tool("a b")]}, "tools[0].function.name", "pattern"),
        (
            {"tools": [tool()], "tool_choice": "required", "response_format": json_schema(SCHEMA)},
            "response_format",
            "a tool is called already",
        ),
        ({"regex": "(", "choices": None}, "regex", "unclosed group"),
        ({"regex": "a", "choices": ["b"]}, "regex", "exclude each other"),
        ({"choices": ["a", "a"]}, "choices", "duplicate choice: 'a'"),
        ({"schema": SCHEMA, "stop": "}"}, "stop", "is not allowed with 'schema'"),
        ({"schema": SCHEMA, "num_beams": 2}, "num_beams", "is not allowed with 'schema'"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_where_it_was_sent(
    fields: dict[str, Any], where: str, told: str
) -> None:
    with pytest.raises(RequestError, match=told) as caught:
        asked(STRUCTURED, **fields)

    assert caught.value.field == where


def test_a_model_without_structured_answers_says_so() -> None:
    with pytest.raises(RequestError, match="gives no structured answers") as caught:
        asked(tools=[tool()], tool_choice="required")

    assert caught.value.field == "tools[0].function.parameters"
