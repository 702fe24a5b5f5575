"""Structured answers of chat completions: response formats, and a tool that must be called.

    response_format {"type": "json_schema"} ─▶ a schema
                    {"type": "json_object"} ─▶ the schema of any object
    tools, tool_choice                      ─▶ the schema of the tool's arguments, and its name

A model calls a tool only where the request says that it must: so clients ask for a structure that
know no response formats. Where it may choose among several, it says which one it calls.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from db.vocabulary.errors import RequestError
from db.vocabulary.json_schemas import relocated_schema
from db.vocabulary.schema_checks import schema_text
from db.vocabulary.structures import ANY_OBJECT, ANY_TOOL

MAX_TOOLS = 128
_ANY_OBJECT: dict[str, Any] = orjson.loads(ANY_OBJECT)
_NO_ARGUMENTS: dict[str, Any] = {**_ANY_OBJECT, "properties": {}, "additionalProperties": False}


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")


class NamedSchema(_Part):
    """A JSON Schema with a name; `strict` or not, it is enforced."""

    name: str
    schema_: Annotated[dict[str, Any], Field(alias="schema")] = _ANY_OBJECT
    description: str | None = None
    strict: bool | None = None


class TextFormat(_Part):
    """Any text."""

    type: Literal["text"]


class JsonFormat(_Part):
    """Any JSON object."""

    type: Literal["json_object"]


class SchemaFormat(_Part):
    """JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[TextFormat | JsonFormat | SchemaFormat, Field(discriminator="type")]


class Function(_Part):
    """A function that a tool is."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    parameters: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class Tool(_Part):
    """A tool: a function whose arguments the model may give."""

    type: Literal["function"]
    function: Function


class FunctionName(_Part):
    """The name of a function."""

    name: str


class ToolChoice(_Part):
    """The tool that must be called."""

    type: Literal["function"]
    function: FunctionName


Tools = Annotated[list[Tool], Field(max_length=MAX_TOOLS)]
#: Which tool is called: none, the one that is named, or one of all.
Choice = Literal["none", "auto", "required"] | ToolChoice


def structure_fields(
    response_format: TextFormat | JsonFormat | SchemaFormat | None,
    tools: Sequence[Tool] | None,
    choice: Choice | None,
) -> dict[str, Any]:
    """Return what an item's request says of the structure that a chat completion asks for.

    A tool that must be called comes before a response format: the answer after it has the format.

    Raises:
        RequestError: It leaves to the model whether to call a tool.
    """
    called = _called(response_format, tools or (), choice)
    if len(called) == 1:
        return {"schema": called[0].parameters or _NO_ARGUMENTS, "tool": called[0].name}
    if called:
        return {"schema": _one_of(called), "tool": ANY_TOOL}
    if isinstance(response_format, JsonFormat):
        return {"schema": _ANY_OBJECT}
    if isinstance(response_format, SchemaFormat):
        return {"schema": response_format.json_schema.schema_}
    return {}


def called_tool(
    response_format: TextFormat | JsonFormat | SchemaFormat | None,
    tools: Sequence[Tool] | None,
    choice: Choice | None,
) -> str | None:
    """Return the name of the function that must be called, ANY_TOOL of several, None of none."""
    names = [each.name for each in _called(response_format, tools or (), choice)]
    return ANY_TOOL if len(names) > 1 else next(iter(names), None)


def _called(
    response_format: TextFormat | JsonFormat | SchemaFormat | None,
    tools: Sequence[Tool],
    choice: Choice | None,
) -> Sequence[Function]:
    """Return the functions of which one must be called."""
    has_format = isinstance(response_format, JsonFormat | SchemaFormat)
    if choice == "none" or (choice in (None, "auto") and (has_format or not tools)):
        return []
    functions = [tool.function for tool in tools]
    if isinstance(choice, ToolChoice):
        wanted = choice.function.name
        named = [function for function in functions if function.name == wanted]
        if not named:
            raise RequestError(f"there is no tool {wanted!r} in 'tools'", field="tool_choice")
        return named[:1]
    if choice == "required":
        if not functions:
            raise RequestError("a tool is required, but there are no 'tools'", field="tool_choice")
        return functions
    raise RequestError(
        "models of this service call a tool only if they must: set tool_choice to 'required' or to"
        " one of the tools, or to 'none'",
        field="tool_choice" if choice else "tools",
    )


def _one_of(functions: Sequence[Function]) -> dict[str, Any]:
    """Return a schema of the name of one function and its arguments."""
    parameters, branches = {}, []
    for number, function in enumerate(functions):
        place = f"#/$defs/{number}"
        try:
            # Checked by itself, so that an error names a place that was sent.
            schema_text(function.parameters or _NO_ARGUMENTS)
        except ValueError as error:
            where = f"tools[{number}].function.parameters"
            raise RequestError(str(error), field=where) from error
        parameters[str(number)] = relocated_schema(function.parameters or _NO_ARGUMENTS, place)
        fields = {"name": {"const": function.name}, "arguments": {"$ref": place}}
        branches.append({"type": "object", "properties": fields, "required": ["name", "arguments"]})
    return {"$defs": parameters, "anyOf": branches}
