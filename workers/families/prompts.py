"""Prompt templates: data with a version that is stored with each answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Template:
    """The instruction for one kind. `text` is filled with the request's fields."""

    name: str
    text: str

    def fill(self, request: Mapping[str, Any]) -> str:
        """The instruction for one request."""
        return self.text.format(question=request.get("question", ""))


#: The default of each kind; a caption's own prompt takes the template's place.
TEMPLATES = {
    "caption": Template("caption/1", "Describe the image."),
    "vqa": Template("vqa/1", "{question}"),
}
OWN_PROMPT = "prompt/own"


def instruction(request: Mapping[str, Any]) -> tuple[str, str]:
    """What the user's turn says, and the name of the template that said so."""
    if "prompt" in request:
        return request["prompt"], OWN_PROMPT
    template = TEMPLATES[request["kind"]]
    return template.fill(request), template.name
