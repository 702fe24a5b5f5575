"""Requests of items: one canonical JSON, whichever interface it came through.

    job.defaults   {"kind": "caption", "options": {...}}
    item.request   {"images": ["blob:…"], "prompt": "…"}           laid over the defaults
    effective      {"kind": "caption", "images": [...], "prompt": "…", "options": {...}}

It is validated once, before it is stored; workers rely on it. What a model accepts is in its model
info (db/vocabulary/model_info.py), what a kind requires in db/vocabulary/kinds.py.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from db.vocabulary.field_types import (
    CustomId,
    Line,
    OwnTemplate,
    Passage,
    Pattern,
    Phrase,
    Reference,
    SchemaText,
    StopString,
    Text,
)
from db.vocabulary.kinds import Kind
from db.vocabulary.references import REFERENCE_FORMS
from db.vocabulary.structures import FORMS, form_of
from db.vocabulary.texts import quotable

MAX_IMAGES = 8
MAX_EXAMPLES = 16
#: Tokens of one answer, whatever the model.
MAX_NEW_TOKENS = 32_768
#: What of the options is each item's own: items that differ in nothing else may share a batch.
OPTIONS_OF_ITEMS = frozenset({"seed", "echo"})
#: What of alternative text an item need not say.
USUAL_ALT_TEXT = {
    "role": "informative",
    "target_length": 125,
    "long_description": False,
    "rewrite": True,
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Options(_Strict):
    """Generation options. What is left out is the checkpoint's default."""

    max_new_tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)] | None = Field(
        None, description="Most tokens of an answer; a model's own limit is in /v1/models"
    )
    min_new_tokens: Annotated[int, Field(ge=0, le=MAX_NEW_TOKENS)] | None = Field(
        None, description="Fewest tokens of an answer"
    )
    num_beams: Annotated[int, Field(ge=1, le=16)] | None = Field(
        None, description="Beams; 1 is greedy"
    )
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = Field(
        None, description="Above 1 repeats less"
    )
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = Field(
        None, description="Above 0: a token that the answer has already is less likely"
    )
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = Field(
        None, description="Above 0: the more often the answer has a token, the less likely it is"
    )
    length_penalty: Annotated[float, Field(ge=-10, le=10)] | None = Field(
        None, description="With beams: above 0 favours longer answers"
    )
    no_repeat_ngram_size: Annotated[int, Field(ge=0, le=100)] | None = Field(
        None, description="No run of so many tokens comes twice; 0 allows it"
    )
    do_sample: bool | None = Field(None, description="Draw tokens instead of taking the likeliest")
    temperature: Annotated[float, Field(gt=0, le=10)] | None = Field(
        None, description="Sampling: below 1 is more careful"
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Sampling: only the likeliest tokens that have this much together"
    )
    top_k: Annotated[int, Field(ge=0, le=100_000)] | None = Field(
        None, description="Sampling: only so many of the likeliest tokens; 0 takes all"
    )
    min_p: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Sampling: only tokens at least this likely, compared to the likeliest"
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(
        None, description="Sampling: the same seed draws the same answer; the answer says its own"
    )
    stop: Annotated[list[StopString], Field(min_length=1, max_length=8)] | None = Field(
        None, description="The answer ends before the first of these"
    )
    echo: bool | None = Field(None, description="Return the prompt too, as the model saw it")
    image_detail: Literal["auto", "low", "high"] | None = Field(
        None,
        description="How finely images are seen: low, at most 512 pixels a side; high, also in"
        " pieces if the model has them; auto, as the checkpoint says",
    )


class Example(_Strict):
    """A solved example that the model sees before the item.

    A question's example may have a question of its own; otherwise the item's is meant.
    """

    image: Reference
    text: Text
    question: Text | None = None


class AltText(_Strict):
    """For `caption`: write alternative text, as for a page that contains the image.

    The context of the page helps a model to find what matters there. Every field is optional.
    """

    role: Literal["informative", "functional"] | None = Field(
        None, description="functional: the image is all that a link or a button has"
    )
    page: Phrase | None = Field(  # indexed: a key of Postgres has 2,704 bytes at most
        None, description="Where the image is; reviews are sorted by it, models are not told"
    )
    source: Passage | None = Field(
        None, description="Which image of the page; for reviewers, models are not told"
    )
    page_title: Phrase | None = None
    heading: Phrase | None = Field(None, description="The nearest heading above")
    caption: Phrase | None = Field(None, description="The caption beside it, not to be repeated")
    destination: Phrase | None = Field(
        None, description="functional: where the link leads, or what the button does"
    )
    surrounding: Passage | None = Field(None, description="Text before and after the image")
    target_length: Annotated[int, Field(ge=20, le=1_000)] | None = Field(
        None, description="Characters aimed at, else 125; longer texts are objected to, never cut"
    )
    long_description: bool | None = Field(
        None, description="true: describe the image in detail too, as a text of its own"
    )
    rewrite: bool | None = Field(
        None, description="false: do not generate again if the draft has issues"
    )


class TextPart(_Strict):
    """A text of a message."""

    type: Literal["text"]
    text: Text


class ImagePart(_Strict):
    """An image of a message: an index into the item's `images`."""

    type: Literal["image"]
    index: Annotated[int, Field(ge=0, lt=MAX_IMAGES)]


class Message(_Strict):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[
        list[Annotated[TextPart | ImagePart, Field(discriminator="type")]],
        Field(min_length=1, max_length=200),
    ]


class Request(_Strict):
    """An item's request, or a job's defaults: every field may be left out."""

    kind: Kind | None = None
    images: Annotated[list[Reference], Field(max_length=MAX_IMAGES)] | None = Field(
        None, description=f"References: {REFERENCE_FORMS}"
    )
    prompt: Text | None = Field(None, description="Caption: what to say instead of the default")
    question: Text | None = Field(None, description="VQA: the question")
    labels: Annotated[list[Line], Field(min_length=2, max_length=1000)] | None = Field(
        None, description="Classify: what to choose from"
    )
    method: Literal["generate", "rank"] | None = Field(
        None,
        description="Classify: map what the model says to a label, or rank all labels by their"
        " likelihood",
    )
    messages: Annotated[list[Message], Field(min_length=1, max_length=100)] | None = None
    examples: Annotated[list[Example], Field(max_length=MAX_EXAMPLES)] | None = Field(
        None, description="Solved examples, shown before the item"
    )
    alt_text: AltText | None = None
    language: Line | None = Field(None, description="Language of the answer, such as French")
    template: OwnTemplate | None = Field(
        None,
        description="Own wording of the prompt, with {images}, or an {image} for each of them, and"
        " the fields of the kind: {prompt}, {question}, {labels}, {language}",
    )
    schema_: SchemaText = Field(
        None,
        alias="schema",
        description="The answer is JSON that this JSON Schema describes, with its fields in the"
        " order of the schema",
    )
    choices: Annotated[list[Line], Field(min_length=1, max_length=1000)] | None = Field(
        None, description="The answer is one of these texts"
    )
    regex: Pattern | None = Field(
        None, description="The answer matches this pattern from its beginning to its end"
    )
    tool: Line | None = Field(
        None,
        description="Chat: the function whose arguments the answer is, by its `schema`; * if the"
        " answer names it itself",
    )
    options: Options | None = None

    @field_validator("labels", "choices")
    @classmethod
    def _distinct(cls, value: list[str] | None, info: ValidationInfo) -> list[str] | None:
        for text, times in Counter(value or ()).items():
            if times > 1:
                raise ValueError(f"duplicate {str(info.field_name)[:-1]}: {text!r}")
        return value

    def canonical(self) -> dict[str, Any]:
        """Return the JSON that is stored: only the fields that were set."""
        return self.model_dump(mode="json", exclude_none=True, by_alias=True)


class ItemIn(Request):
    """An item: its request, and the caller's own id."""

    custom_id: CustomId | None = None


def refused(message: str) -> dict[str, Any]:
    """Request of an item that was wrong when it was submitted among others: it fails alone."""
    return {"refused": quotable(message)}


def effective(defaults: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """Merge an item's request over its job's defaults; options and alt_text field by field.

    An item with a structure of its own has no other.
    """
    if form_of(request):
        others = {*FORMS, "tool"}
        defaults = {name: value for name, value in defaults.items() if name not in others}
    merged = {"kind": "caption", **defaults, **request}
    for name in ("options", "alt_text"):
        if name in merged:
            merged[name] = {**defaults.get(name, {}), **request.get(name, {})}
    return {name: value for name, value in merged.items() if name != "options" or value}


def options_digest(effective_request: dict[str, Any]) -> str:
    """Digest of kind, method and shared options: equal for items that may share a batch."""
    chosen = {key: effective_request.get(key) for key in ("kind", "method")}
    if alt_text := alt_text_of(effective_request):
        chosen["alt_text"] = alt_text["long_description"]
    if form_of(effective_request):
        chosen["structured"] = True  # which structure is each item's own
    options = effective_request.get("options", {})
    chosen["options"] = {k: v for k, v in options.items() if k not in OPTIONS_OF_ITEMS}
    return hashlib.sha256(orjson.dumps(chosen, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def alt_text_of(request: dict[str, Any]) -> dict[str, Any] | None:
    """Return the alt_text of an effective request with its defaults filled in, or None."""
    given = request.get("alt_text")
    return None if given is None else {**USUAL_ALT_TEXT, **given}


def image_references(request: dict[str, Any]) -> list[str]:
    """References of a request's images."""
    return list(request.get("images", ()))


def example_references(request: dict[str, Any]) -> list[str]:
    """References of the images in a request's examples."""
    return [example["image"] for example in request.get("examples", ())]


def blob_digests(references: Iterable[str]) -> set[str]:
    """Digests of the `blob:` references among some references."""
    return {name.removeprefix("blob:") for name in references if name.startswith("blob:")}
