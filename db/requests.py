"""What an item asks for: one canonical JSON, whatever face it came through.

    job.defaults   {"kind": "caption", "options": {...}}
    item.request   {"images": ["blob:…"], "prompt": "…"}           laid over the defaults
    effective      {"kind": "caption", "images": [...], "prompt": "…", "options": {...}}

It is validated once, before it is stored; workers rely on it. Chat and few-shot examples have
their fields from the start, and each model's card says what it takes.
"""

import hashlib
import json
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
)

from db.errors import RequestError, UnsupportedKind

Kind = Literal["caption", "vqa", "classify", "generate", "chat"]

MAX_IMAGES = 8
MAX_EXAMPLES = 16
#: Longest reference that is not `data:`.
MAX_REFERENCE = 8_192
# Each form is told by its first characters, so that matching is linear in the length.
_REFERENCE = re.compile(
    r"blob:[0-9a-f]{64}|https?://[^\s/]\S*|s3://[^\s/]\S*|data:image/[a-z.+-]+;base64,[\w+/=-]*",
    re.ASCII,
)
_REFERENCE_FORMS = "blob:SHA256, http(s)://…, s3://bucket/key or data:image/…;base64,…"


def no_nul(text: str) -> str:
    """Refuse the one character that Postgres cannot store.

    Raises:
        ValueError: There is one.
    """
    if "\0" in text:
        raise ValueError("the character NUL cannot be stored")
    return text


Text = Annotated[str, StringConstraints(min_length=1, max_length=20_000), AfterValidator(no_nul)]


def check_reference(reference: str) -> str:
    """Return an image reference if it has one of the four forms.

    Raises:
        ValueError: It has none of them.
    """
    too_long = len(reference) > MAX_REFERENCE and not reference.startswith("data:")
    if too_long or "\0" in reference or not _matches(reference):
        shown = reference if len(reference) <= 60 else f"{reference[:57]}…"
        raise ValueError(f"{shown!r} is no image reference; use {_REFERENCE_FORMS}")
    return reference


def _matches(reference: str) -> bool:
    if reference.startswith("s3://"):
        return bool(reference.removeprefix("s3://").partition("/")[2]) and bool(
            _REFERENCE.fullmatch(reference)
        )
    return bool(_REFERENCE.fullmatch(reference))


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Options(_Strict):
    """How an answer is generated. What is left out is the checkpoint's own default."""

    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="Most tokens of an answer"
    )
    min_new_tokens: Annotated[int, Field(ge=0, le=4096)] | None = Field(
        None, description="Fewest tokens of an answer"
    )
    num_beams: Annotated[int, Field(ge=1, le=16)] | None = Field(
        None, description="Beams; 1 is greedy"
    )
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = Field(
        None, description="Above 1 repeats less"
    )
    length_penalty: Annotated[float, Field(ge=-10, le=10)] | None = Field(
        None, description="With beams: above 0 favours longer answers"
    )


class Example(_Strict):
    """One solved example shown to the model before the item."""

    image: str
    text: Text

    _reference = field_validator("image")(check_reference)


class TextPart(_Strict):
    """Text of a message."""

    type: Literal["text"]
    text: Text


class ImagePart(_Strict):
    """An image of a message: an index into the item's `images`."""

    type: Literal["image"]
    index: Annotated[int, Field(ge=0, lt=MAX_IMAGES)]


class Message(_Strict):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: list[Annotated[TextPart | ImagePart, Field(discriminator="type")]]


class Request(_Strict):
    """An item's request, or a job's defaults: every field may be left out."""

    kind: Kind | None = None
    images: Annotated[list[str], Field(max_length=MAX_IMAGES)] | None = Field(
        None, description=f"References: {_REFERENCE_FORMS}"
    )
    prompt: Text | None = Field(None, description="Caption: what to say instead of the default")
    question: Text | None = Field(None, description="VQA: the question")
    labels: Annotated[list[Text], Field(min_length=2, max_length=1000)] | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=100)] | None = None
    examples: Annotated[list[Example], Field(max_length=MAX_EXAMPLES)] | None = None
    options: Options | None = None

    @field_validator("images")
    @classmethod
    def _references(cls, value: list[str] | None) -> list[str] | None:
        return None if value is None else [check_reference(reference) for reference in value]

    def canonical(self) -> dict[str, Any]:
        """The JSON that is stored: only what was said."""
        return self.model_dump(mode="json", exclude_none=True)


class Limits(_Strict):
    """What a model takes."""

    max_images: Annotated[int, Field(ge=0, le=MAX_IMAGES)]
    max_examples: Annotated[int, Field(ge=0, le=MAX_EXAMPLES)] = 0
    max_new_tokens: Annotated[int, Field(ge=1)]


class ModelCard(_Strict):
    """How an engine worker describes the model it has loaded."""

    name: str
    family: str
    kinds: list[Kind]
    limits: Limits
    licence: str
    note: str = ""
    revision: str = ""
    dtype: str = ""
    device: str = ""


def effective(defaults: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """Lay an item's request over its job's defaults; options are laid over one by one."""
    options = {**defaults.get("options", {}), **request.get("options", {})}
    merged = {"kind": "caption", **defaults, **request}
    return {**merged, "options": options} if options else merged


def options_digest(effective_request: dict[str, Any]) -> str:
    """Equal for items that may share a batch: a digest of kind and options."""
    chosen = {key: effective_request.get(key) for key in ("kind", "options")}
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16]


def references(effective_request: dict[str, Any]) -> list[str]:
    """Every image reference of a request: its images, then those of its examples."""
    examples = (example["image"] for example in effective_request.get("examples", ()))
    return [*effective_request.get("images", ()), *examples]


#: What each kind needs and may have besides images, examples and options.
_FIELDS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "caption": (frozenset(), frozenset({"prompt"})),
    "vqa": (frozenset({"question"}), frozenset()),
    "classify": (frozenset({"labels"}), frozenset()),
    "generate": (frozenset({"prompt"}), frozenset()),
    "chat": (frozenset({"messages"}), frozenset()),
}


def check_effective(request: dict[str, Any], card: ModelCard) -> None:
    """Refuse an effective request that the model of `card` cannot answer.

    Raises:
        UnsupportedKind: The model cannot do the kind at all.
        RequestError: A field is missing, out of place or over the model's limits.
    """
    kind = request["kind"]
    if kind not in card.kinds:
        raise UnsupportedKind(
            f"model {card.name!r} cannot do {kind!r}; it can do {', '.join(card.kinds)}",
            field="kind",
        )
    _check_fields(kind, request)
    images, most = len(request.get("images", ())), card.limits.max_images
    fewest, most = (1, 1) if kind == "caption" else (1 if kind == "vqa" else 0, most)
    if not fewest <= images <= most:
        wanted = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        raise RequestError(f"{kind} takes {wanted} image(s), not {images}", field="images")
    examples = len(request.get("examples", ()))
    if examples > card.limits.max_examples:
        raise RequestError(
            f"model {card.name!r} takes at most {card.limits.max_examples} examples,"
            f" not {examples}",
            field="examples",
        )
    _check_lengths(request.get("options", {}), card)


def _check_fields(kind: str, request: dict[str, Any]) -> None:
    needed, allowed = _FIELDS[kind]
    for field in sorted(needed - request.keys()):
        raise RequestError(f"{kind} needs {field!r}", field=field)
    known = needed | allowed | {"kind", "images", "examples", "options"}
    for field in sorted(request.keys() - known):
        raise RequestError(f"{kind} has no {field!r}", field=field)


def _check_lengths(options: dict[str, Any], card: ModelCard) -> None:
    most = options.get("max_new_tokens", card.limits.max_new_tokens)
    if most > card.limits.max_new_tokens:
        raise RequestError(
            f"model {card.name!r} gives at most {card.limits.max_new_tokens} tokens, not {most}",
            field="options.max_new_tokens",
        )
    if options.get("min_new_tokens", 0) > most:
        raise RequestError("min_new_tokens is above max_new_tokens", field="options.min_new_tokens")
