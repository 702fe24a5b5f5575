"""Failed validations of what a caller sent, as errors that name the field as it was sent."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from db.vocabulary.errors import RequestError


def request_error(
    error: ValidationError,
    sent: bytes | Mapping[str, Any] | None = None,
    *,
    line: int | None = None,
) -> RequestError:
    """Turn a failed validation into a RequestError that names the field as it was sent.

    Args:
        sent: The JSON that was validated, as text or as an object; None if it is not what the
            caller sent.
    """
    if isinstance(sent, bytes):
        try:
            sent = json.loads(sent)
        except (ValueError, RecursionError):
            sent = None
    path, message = first_error(error.errors(include_url=False), sent)
    return RequestError(message, field=dotted(path) or None, line=line)


def dotted(path: Sequence[int | str]) -> str:
    """Write the path of a field: items.3.options.top_k."""
    return ".".join(map(str, path))


def first_error(found: Sequence[Any], sent: object) -> tuple[list[int | str], str]:
    """Return path and message of the first error; of a union, of its most specific branch."""
    first = _path_sent(found[0], sent)
    branches = [one for one in found if _path_sent(one, sent)[: len(first)] == first]
    chosen = max(branches, key=lambda one: len(_path_sent(one, sent)))
    message = str(chosen["msg"]).removeprefix("Value error, ")
    if chosen["type"] == "extra_forbidden":
        message = "unknown field"
    return _path_sent(chosen, sent), message


def _path_sent(error: Any, sent: object) -> list[int | str]:
    """Return an error's location without what was not sent, such as branches of a union."""
    location: Sequence[int | str] = error["loc"]
    if sent is None:
        return list(location)
    path: list[int | str] = []
    here: Any = sent
    for number, part in enumerate(location):
        try:
            here = here[part]
        except (TypeError, LookupError):
            is_last = number == len(location) - 1
            if not (is_last and error["type"] == "missing"):
                continue
        path.append(part)
    return path
