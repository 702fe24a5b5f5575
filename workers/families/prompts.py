"""Prompts: versioned templates turn a request into turns of texts and images.

    request ─▶ template of its style and kind, filled ─▶ turns of texts and images

The templates are those of db/vocabulary/kinds.py, or the request's own.
"""

import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from db.vocabulary.kinds import IMAGE_PLACES, KINDS, TEMPLATE_FIELDS, Style, Template

#: A text, or the number of an image: the request's images first, then those of its examples.
PromptPart = str | int


@dataclass(frozen=True, slots=True)
class Turn:
    """One message. In plain style there is one turn, by "user", which the model continues."""

    role: str
    parts: tuple[PromptPart, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A complete prompt; the model answers next. `template` is the name of its template."""

    turns: tuple[Turn, ...]
    template: str


_PLACE = re.compile(rf"(\{{(?:{'|'.join(sorted(TEMPLATE_FIELDS | IMAGE_PLACES))})\}})")


def build(request: Mapping[str, Any], style: Style, images_given: int) -> Prompt:
    """Build the prompt of an effective request for a style of model.

    Args:
        images_given: Images of the request and of its examples together.
    """
    shown = range(images_given - len(request.get("examples", ())), images_given)
    images = range(shown.start)
    templates = KINDS[request["kind"]].templates
    if templates is None:
        return Prompt(tuple(_conversation(request, shown)), "chat/1")
    template = _choose(request, templates[style])
    fields = _fields(request, template)
    asked = _fill(template.body, fields, images)
    solved = [
        (_fill(template.body, _with_question(fields, example), [image]), example["text"])
        for image, example in zip(shown, request.get("examples", ()), strict=True)
    ]
    head = _fill(template.head, fields, [])
    if style == "plain":
        parts = list(head)
        for question, answer in solved:
            parts += [*question, answer if _ends_in_space(question) else f" {answer}", "\n"]
        return Prompt((Turn("user", _joined([*parts, *asked])),), template.name)
    turns = []
    for question, answer in solved:
        turns += [Turn("user", _joined(question)), Turn("assistant", (answer,))]
    return Prompt((*turns, Turn("user", _joined([*head, *asked]))), template.name)


def _ends_in_space(parts: list[PromptPart]) -> bool:
    last = parts[-1] if parts else ""
    return isinstance(last, str) and last[-1:].isspace()


def _choose(request: Mapping[str, Any], templates: Mapping[str, Template]) -> Template:
    if "template" in request:
        digest = hashlib.sha256(request["template"].encode()).hexdigest()[:8]
        return Template(f"own/{digest}", request["template"])
    if "prompt" in request and "prompt" in templates:
        return templates["prompt"]
    if request.get("examples") and "examples" in templates:
        return templates["examples"]
    return templates[""]


def _fields(request: Mapping[str, Any], template: Template) -> dict[str, str]:
    language = request.get("language")
    labels = list(request.get("labels", ()))
    return {
        "prompt": request.get("prompt", ""),
        "question": request.get("question", ""),
        "labels": str(labels) if template.brackets else ", ".join(labels),
        "language": template.language.replace("{}", language) if language else "",
    }


def _with_question(fields: dict[str, str], example: Mapping[str, Any]) -> dict[str, str]:
    return {**fields, "question": example.get("question", fields["question"])}


def _fill(text: str, fields: Mapping[str, str], images: Iterable[int]) -> list[PromptPart]:
    parts: list[PromptPart] = []
    left = iter(images)
    for words, field in _pieces(text):
        parts.append(words)
        if field == "images":
            parts += left
        elif field == "image":
            parts.append(next(left))
        elif field:
            parts.append(fields[field])
    return parts


@functools.lru_cache(maxsize=1_024)
def _pieces(template: str) -> list[tuple[str, str]]:
    """Split a template into its words, each with the field behind them, or "" at the end."""
    split = _PLACE.split(template)
    return list(zip(split[::2], [place[1:-1] for place in split[1::2]] + [""], strict=True))


def _joined(parts: list[PromptPart]) -> tuple[PromptPart, ...]:
    """Join neighbouring texts, so that no control token can hide in two of them."""
    joined: list[PromptPart] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        elif part != "":
            joined.append(part)
    return tuple(joined)


def _conversation(request: Mapping[str, Any], shown: range) -> Iterator[Turn]:
    turns = [Turn(message["role"], _content(message)) for message in request["messages"]]
    # Templates take a system message only in the first place.
    while turns and turns[0].role == "system":
        yield turns.pop(0)
    for image, example in zip(shown, request.get("examples", ()), strict=True):
        yield Turn("user", (image,))
        yield Turn("assistant", (example["text"],))
    yield from turns


def _content(message: Mapping[str, Any]) -> tuple[PromptPart, ...]:
    return _joined(
        [
            part["text"] if part["type"] == "text" else int(part["index"])
            for part in message["content"]
        ]
    )
