"""Mistakes in a chat completion, told in the words of whoever sent it.

A request is validated twice: as a chat completion, and as the item that it becomes. What is wrong
with the item is told of the field that it came from: images.1 ─▶ messages[0].content[2].image_url.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from db.vocabulary.errors import RequestError
from db.vocabulary.validation_errors import first_error

Path = Sequence[int | str]


def body_error(error: ValidationError, sent: object) -> RequestError:
    """Return what is wrong with the body of a chat completion, as it was sent."""
    path, message = first_error(error.errors(include_url=False), sent)
    return RequestError(message, field=written(path) or None)


def item_error(
    error: ValidationError, item: Mapping[str, Any], sent: Mapping[str, Any]
) -> RequestError:
    """Return what is wrong with the item that a chat completion became.

    Args:
        item: What was validated.
        sent: The body of the chat completion that it came from.
    """
    path, message = first_error(error.errors(include_url=False), item)
    return RequestError(message, field=written(_as_sent(path, sent)) or None)


def as_sent(field: str | None, sent: Mapping[str, Any]) -> str | None:
    """Return a field of an item (`images.1`) as the field of the body that it came from."""
    names = field.split(".") if field else []
    path = [int(name) if name.isdecimal() else name for name in names]
    return written(_as_sent(path, sent)) or None


def written(path: Path) -> str:
    """Write a path as programmers do: messages[0].content[1].image_url."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _as_sent(path: Path, sent: Mapping[str, Any]) -> Path:
    match path:
        case ["images", int(number), *_]:
            return _place(number, sent)
        case ["images", *_]:
            return ["messages"]
        case ["messages", int(number), *_] if isinstance(_content(sent, number), str):
            return ["messages", number, "content"]
        case ["options", "max_new_tokens"]:
            own = sent.get("max_completion_tokens") is None
            return ["max_tokens" if own else "max_completion_tokens"]
        case ["schema", *rest] if sent.get("schema") is None:
            return [*_place_of_schema(sent), *rest]
        case ["options", name, *rest]:
            return [name] if isinstance(sent.get(str(name)), str) else [name, *rest]
    return path


def _place_of_schema(sent: Mapping[str, Any]) -> Path:
    """Return where the schema of an answer is: of a tool, or of a response format."""
    if not sent.get("tools") or sent.get("tool_choice") in (None, "auto", "none"):
        is_json = sent["response_format"]["type"] == "json_object"
        return ["response_format"] if is_json else ["response_format", "json_schema", "schema"]
    if sent["tool_choice"] == "required" and len(sent["tools"]) > 1:
        return ["tools"]
    choice = sent["tool_choice"]
    wanted = choice["function"]["name"] if isinstance(choice, dict) else None
    names = [tool["function"]["name"] for tool in sent["tools"]]
    return ["tools", names.index(wanted) if wanted else 0, "function", "parameters"]


def _content(sent: Mapping[str, Any], number: int) -> Any:
    return sent["messages"][number].get("content")


def _place(number: int, sent: Mapping[str, Any]) -> Path:
    """Return where the image of a number is: equal ones have one number, that of the first."""
    seen: dict[str, Path] = {}
    for turn, message in enumerate(sent["messages"]):
        parts = message.get("content")
        for index, part in enumerate(parts if isinstance(parts, list) else ()):
            if part["type"] == "image_url":
                shown = part["image_url"]
                url = shown if isinstance(shown, str) else shown["url"]
                seen.setdefault(url, ["messages", turn, "content", index, "image_url"])
    return [*seen.values()][number]
