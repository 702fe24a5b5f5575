"""Prompts: versioned templates turn a request into turns of texts and images.

    request ─▶ template of its style and kind, filled ─▶ turns of texts and images

A model that was taught to converse takes turns ("chat"); a base model continues a text
("plain"), for which the wordings are those of the guide to IDEFICS in transformers. In a
template, {images} is where the images are and {prompt}, {question}, {labels}, {language} are the
request's fields; any other brace is a brace.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from db.requests import TEMPLATE_FIELDS

Style = Literal["chat", "plain"]
#: A text, or the number of an image: the request's images first, then those of its examples.
PromptPart = str | int


@dataclass(frozen=True, slots=True)
class Template:
    """The prompt of one kind for models of one style.

    Attributes:
        name: Name and version; a changed wording is a new version.
        body: One question to the model; repeated for each example.
        head: What stands before everything, once.
        language: What {language} becomes when an answer's language is asked for; {} is its name.
        brackets: Labels as a list of Python, as the guide prints them, and not with commas alone.
    """

    name: str
    body: str
    head: str = ""
    language: str = "{}"
    brackets: bool = False


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


_CHAT = {
    "caption": Template(
        "caption/1", "{images}Describe the image.{language}", language=" Answer in {}."
    ),
    "caption-prompt": Template(
        "caption-prompt/1", "{images}{prompt}{language}", language=" Answer in {}."
    ),
    "vqa": Template("vqa/1", "{images}{question}{language}", language=" Answer in {}."),
    "classify": Template(
        "classify/1",
        "{images}Classify the image into a single category from the following list: {labels}."
        "{language} Answer with the category alone.",
        language=" Answer in {}.",
    ),
    "generate": Template("generate/1", "{images}{prompt}{language}", language=" Answer in {}."),
}
_PLAIN = {
    # The beginning of the text and the image alone: a base model goes on with a caption.
    "caption": Template(
        "plain-caption/1",
        "{images}",
        head="{language}",
        language="Instruction: Describe the image in {}.\n",
    ),
    "caption-examples": Template(
        "plain-caption-examples/1",
        "User:{images}Describe this image{language}.\nAssistant:",
        language=" in {}",
    ),
    "caption-prompt": Template(
        "plain-caption-prompt/1",
        "{images}{prompt}",
        head="{language}",
        language="Instruction: Answer in {}.\n",
    ),
    "vqa": Template(
        "plain-vqa/1",
        "{images}Question: {question} Answer:",
        head="Instruction: Provide an answer to the question{language}. Use the image to answer.\n",
        language=" in {}",
    ),
    "classify": Template(
        "plain-classify/1",
        "{images}Category: ",
        head="Instruction: Classify the following image into a single category from the"
        " following list: {labels}.{language}\n",
        language=" Answer in {}.",
        brackets=True,
    ),
    "generate": Template(
        "plain-generate/1",
        "{images}Text: \n",
        head="Instruction: {prompt}{language}\n",
        language=" Answer in {}.",
    ),
}
TEMPLATES: dict[Style, dict[str, Template]] = {"chat": _CHAT, "plain": _PLAIN}

_PLACE = re.compile(rf"(\{{(?:{'|'.join(['images', *sorted(TEMPLATE_FIELDS)])})\}})")


def build(request: Mapping[str, Any], style: Style, images_given: int) -> Prompt:
    """Build the prompt of an effective request for a style of model.

    Args:
        images_given: Images of the request and of its examples together.
    """
    shown = range(images_given - len(request.get("examples", ())), images_given)
    images = range(shown.start)
    if request["kind"] == "chat":
        return Prompt(tuple(_conversation(request, shown)), "chat/1")
    template = _choose(request, style)
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


def _choose(request: Mapping[str, Any], style: Style) -> Template:
    if "template" in request:
        digest = hashlib.sha256(request["template"].encode()).hexdigest()[:8]
        return Template(f"own/{digest}", request["template"])
    kind = request["kind"]
    if "prompt" in request and kind == "caption":
        kind = "caption-prompt"
    elif request.get("examples") and f"{kind}-examples" in TEMPLATES[style]:
        kind = f"{kind}-examples"
    return TEMPLATES[style][kind]


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
    for piece in _PLACE.split(text):
        if piece == "{images}":
            parts += images
        else:
            parts.append(fields[piece[1:-1]] if _PLACE.fullmatch(piece) else piece)
    return parts


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
    for image, example in zip(shown, request.get("examples", ()), strict=True):
        yield Turn("user", (image,))
        yield Turn("assistant", (example["text"],))
    for message in request["messages"]:
        parts = [
            part["text"] if part["type"] == "text" else int(part["index"])
            for part in message["content"]
        ]
        yield Turn(message["role"], _joined(parts))
