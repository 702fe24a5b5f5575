"""Structured answers of chat completions: response formats, and a tool that must be called.

    response_format {"type": "json_schema"} ─▶ a schema
                    {"type": "json_object"} ─▶ the schema of any object
    tools, tool_choice                      ─▶ the schema of the tool's arguments, and its name

A model calls a tool only where the request says that it must, and which: so clients ask for a
structure that know no response formats.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from db.vocabulary.errors import RequestError
from db.vocabulary.structures import ANY_OBJECT

MAX_TOOLS = 128
_ANY_OBJECT: dict[str, Any] = orjson.loads(ANY_OBJECT)


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
#: Which tool is called: none, or the one that is named, or the only one.
Choice = Literal["none", "auto", "required"] | ToolChoice


def structure_fields(
    response_format: TextFormat | JsonFormat | SchemaFormat | None,
    tools: Sequence[Tool] | None,
    choice: Choice | None,
) -> dict[str, Any]:
    """Return what an item's request says of the structure that a chat completion asks for.

    Raises:
        RequestError: It leaves the choice of a tool to the model.
    """
    called = _called(tools or (), choice)
    if called:
        if response_format and response_format.type != "text":
            raise RequestError("a tool is called already: leave it out", field="response_format")
        return {"schema": called.parameters or _ANY_OBJECT, "tool": called.name}
    if isinstance(response_format, JsonFormat):
        return {"schema": _ANY_OBJECT}
    if isinstance(response_format, SchemaFormat):
        return {"schema": response_format.json_schema.schema_}
    return {}


def _called(tools: Sequence[Tool], choice: Choice | None) -> Function | None:
    """Return the function that must be called, None if none is."""
    if choice == "none" or (not tools and choice in (None, "auto")):
        return None
    if isinstance(choice, ToolChoice):
        wanted = choice.function.name
        named = [tool.function for tool in tools if tool.function.name == wanted]
        if not named:
            raise RequestError(f"there is no tool {wanted!r}", field="tool_choice")
        return named[0]
    if choice == "required" and len(tools) == 1:
        return tools[0].function
    raise RequestError(
        "models of this service call a tool only if they must: name one, as"
        ' {"type": "function", "function": {"name": …}}',
        field="tool_choice",
    )
