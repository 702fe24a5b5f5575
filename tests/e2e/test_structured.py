"""Structured answers, from OpenAI's own client and from ours, on the whole service."""

import json
from enum import StrEnum
from typing import Any

import httpx2
import openai
import pytest
from pydantic import BaseModel

from idefiq.errors import ApiError
from tests.e2e.conftest import Env, Start
from tests.e2e.test_openai import ask, drawn, ended_batch


class Colour(StrEnum):
    """Colours that a model may name."""

    RED = "red"
    BLUE = "blue"


class Scene(BaseModel):
    """What a model says of a picture."""

    colour: Colour
    count: int
    is_empty: bool


TOOL: Any = {
    "type": "function",
    "function": {"name": "describe", "parameters": Scene.model_json_schema()},
}
OTHER: Any = {"type": "function", "function": {"name": "other"}}
CHOSEN: Any = {"type": "function", "function": {"name": "describe"}}


def test_programs_get_json_of_their_schema_in_chats_in_batches_and_as_calls_of_a_tool(
    embedded: Env, start: Start
) -> None:
    [scene] = drawn(1)
    messages: Any = ask(scene, 0)
    named = {"name": "scene", "schema": Scene.model_json_schema(), "strict": True}
    formats: list[dict[str, Any]] = [
        {"response_format": {"type": "json_schema", "json_schema": named}},
        {"response_format": {"type": "json_schema", "json_schema": named}, "max_tokens": 4},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {**named, "schema": {"not": {}}},
            }
        },
        {"tools": [TOOL], "tool_choice": CHOSEN},
        {"response_format": {"type": "json_object"}},
    ]
    lines = [
        {
            "custom_id": str(number),
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "demo", "messages": messages, "max_tokens": 300, **each},
        }
        for number, each in enumerate(formats)
    ]
    with (
        start("demo", embedded) as (stack, _),
        openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.api_key) as client,
    ):
        parsed = client.chat.completions.parse(
            model="demo", messages=messages, response_format=Scene, max_tokens=300
        )
        called = client.chat.completions.create(
            model="demo", messages=messages, tools=[TOOL], tool_choice="required", max_tokens=300
        )
        chunks = list(
            client.chat.completions.create(
                model="demo",
                messages=messages,
                tools=[TOOL],
                tool_choice=CHOSEN,
                max_tokens=300,
                stream=True,
            )
        )
        both: Any = {"tools": [TOOL, OTHER], "tool_choice": "required", "max_tokens": 300}
        chosen = client.chat.completions.create(model="demo", messages=messages, **both)
        told = list(
            client.chat.completions.create(model="demo", messages=messages, stream=True, **both)
        )
        ended = ended_batch(client, lines)
        output = client.files.content(str(ended.output_file_id)).text
        errors = client.files.content(str(ended.error_file_id)).text

    said = parsed.choices[0].message.parsed
    assert said
    assert parsed.choices[0].finish_reason == "stop"

    [choice] = called.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls
    [call] = choice.message.tool_calls
    assert call.type == "function"
    assert call.function.name == "describe"
    assert Scene.model_validate_json(call.function.arguments) == said

    deltas = [chunk.choices[0].delta for chunk in chunks]
    pieces = [one.function for each in deltas for one in each.tool_calls or [] if one.function]
    assert [each.name for each in pieces if each.name] == ["describe"]
    assert "".join(each.arguments or "" for each in pieces) == call.function.arguments
    assert not any(each.content for each in deltas)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"

    assert chosen.choices[0].message.tool_calls
    [one] = chosen.choices[0].message.tool_calls
    [same] = [one for chunk in told for one in chunk.choices[0].delta.tool_calls or []]
    assert one.type == "function"
    assert same.function
    assert one.function.name == same.function.name
    assert one.function.name in ("describe", "other")
    assert json.loads(one.function.arguments) == json.loads(same.function.arguments or "")

    answers = {
        one["custom_id"]: one["response"]["body"] for one in map(json.loads, output.splitlines())
    }
    whole, cut, tool, free = (answers[n]["choices"][0] for n in ("0", "1", "3", "4"))
    assert Scene.model_validate_json(whole["message"]["content"]) == said
    assert cut["finish_reason"] == "length"
    assert tool["message"]["tool_calls"][0]["function"]["arguments"] == call.function.arguments
    assert free["finish_reason"] == "length" or json.loads(free["message"]["content"]) is not None
    [failed] = map(json.loads, errors.splitlines())
    assert failed["custom_id"] == "2"
    assert "response_format.json_schema.schema" in failed["response"]["body"]["error"]["message"]


def test_a_job_has_the_structure_of_its_defaults_and_items_have_their_own(
    embedded: Env, start: Start
) -> None:
    items: list[dict[str, Any]] = [
        {"prompt": "Describe it."},
        {"prompt": "Name a colour.", "schema": {"enum": ["red", "blue"]}},
        {"prompt": "Name another.", "choices": ["green", "grey"]},
        {"prompt": "Count.", "options": {"max_new_tokens": 3}},
    ]
    defaults = {"kind": "generate", "schema": Scene.model_json_schema()}
    with start("demo", embedded) as (stack, client):
        done = client.wait(client.submit(items, model="demo", defaults=defaults))
        results = {result.index: result for result in client.results(done.id)}
        url = f"{stack.url}/v1/jobs/{done.id}/items/1"
        key = {"authorization": f"Bearer {stack.api_key}"}
        own = httpx2.get(url, headers=key).json()["request"]["schema"]
        with pytest.raises(ApiError, match="'uniqueItems' is not supported") as refused:
            client.submit(
                [{"prompt": "x", "schema": {"uniqueItems": True}}], defaults={"kind": "generate"}
            )
        with pytest.raises(ApiError, match="an answer has one structure"):
            client.submit([{"prompt": "x", "choices": ["a"], "regex": "a"}], defaults=defaults)
        with pytest.raises(ApiError, match="Invalid type"):
            client.submit(
                [{"prompt": "x", "schema": {"type": "foo"}}], defaults={"kind": "generate"}
            )

    assert "schema" in str(refused.value)
    assert own == items[1]["schema"]
    first, second, other, third = (results[n] for n in range(4))
    assert Scene.model_validate(first.data) == Scene.model_validate_json(first.answer or "")
    assert second.data in ("red", "blue")
    assert other.data in ("green", "grey")
    assert third.detail
    assert third.detail["finish_reason"] == "length"
    assert third.data is None
