"""Messages of a chat completion: texts, and parts that are texts or images."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag


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
    Annotated[str, Tag(f"{_TAG}text")] | Annotated[ChatParts, Tag(f"{_TAG}parts")],
    Discriminator(
        _kind_of_content,
        custom_error_type="content_type",
        custom_error_message="expected a text or a list of parts",
    ),
]


class MessageIn(_Part):
    """One message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
