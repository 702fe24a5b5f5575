"""Messages of a chat completion: texts, and parts that are texts or images."""

import json
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

#: Calls of tools in one message.
MAX_TOOL_CALLS = 100


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")


class ChatTextPart(_Part):
    """A text of a message."""

    type: Literal["text"]
    text: str


class ImageUrl(_Part):
    """Reference of an image: https, data:, or any other that items accept."""

    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


def _as_object(value: object) -> object:
    """Take a bare URL, as some clients send it."""
    if not isinstance(value, str | dict):
        raise ValueError("expected an object with a url, or the url itself")
    return {"url": value} if isinstance(value, str) else value


class ChatImagePart(_Part):
    """An image of a message."""

    type: Literal["image_url"]
    image_url: Annotated[ImageUrl, BeforeValidator(_as_object)]


def _kind_of_part(value: object) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else None
    return f"{_TAG}{kind}" if kind in ("text", "image_url") else None


def _kind_of_content(value: object) -> str | None:
    if isinstance(value, str):
        return f"{_TAG}text"
    if value is None:
        return f"{_TAG}none"
    return f"{_TAG}parts" if isinstance(value, list) else None


#: Branches are chosen by type, so that a mistake is told of one branch alone. Their tags are in the
#: paths of mistakes, and must not look like a field that may have been sent.
_TAG = "\0"
ChatPart = Annotated[
    Annotated[ChatTextPart, Tag(f"{_TAG}text")] | Annotated[ChatImagePart, Tag(f"{_TAG}image_url")],
    Discriminator(
        _kind_of_part,
        custom_error_type="part_type",
        custom_error_message="expected a part of the type 'text' or 'image_url'",
    ),
]
ChatParts = Annotated[list[ChatPart], Field(max_length=200)]
Content = Annotated[
    Annotated[str, Tag(f"{_TAG}text")]
    | Annotated[ChatParts, Tag(f"{_TAG}parts")]
    | Annotated[None, Tag(f"{_TAG}none")],
    Discriminator(
        _kind_of_content,
        custom_error_type="content_type",
        custom_error_message="expected a text or a list of parts",
    ),
]


class CalledFunction(_Part):
    """The call of a function in an earlier answer."""

    name: str
    arguments: str


class ToolCall(_Part):
    """The call of a tool in an earlier answer."""

    type: Literal["function"]
    function: CalledFunction

    @property
    def text_for_model(self) -> str:
        """The call as the model reads it: chat templates know no calls."""
        name = json.dumps(self.function.name, ensure_ascii=False)
        return f'{{"name": {name}, "arguments": {self.function.arguments or "{}"}}}'


class MessageIn(_Part):
    """One message."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOL_CALLS)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and not self.tool_calls:
            raise ValueError("expected content: a text or a list of parts")
        return self
