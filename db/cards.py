"""What one model takes: its card, and the check of a request against it.

engine worker loads a model ─▶ card ─▶ the record ─▶ GET /v1/models
                                            └─▶ every submission is checked against it
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from db.errors import RequestError, UnsupportedKind
from db.requests import MAX_EXAMPLES, MAX_IMAGES, TEMPLATE_FIELDS, Kind

#: Options that mean something only while sampling.
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "seed")


class _Stored(BaseModel):
    # Cards outlive the worker that wrote them: a newer one's field is no error to an older API.
    model_config = ConfigDict(extra="ignore", frozen=True)


class Limits(_Stored):
    """The most that a request may ask of a model.

    Attributes:
        max_images: Images of an item.
        max_examples: Solved examples of an item.
        max_new_tokens: Tokens of an answer; how many an item gets that asks for no number is in
            `ModelCard.defaults`.
    """

    max_images: Annotated[int, Field(ge=0, le=MAX_IMAGES)]
    max_examples: Annotated[int, Field(ge=0, le=MAX_EXAMPLES)] = 0
    max_new_tokens: Annotated[int, Field(ge=1)]


class Checks(_Stored):
    """What a model was seen to do when it was loaded.

    Attributes:
        image_effect: How far another picture moved the scores of the first token.
        batch_noise: How far neighbours in a batch moved them.
        batch_equals_singles: Whether a batch's greedy answers were those of its items alone.
    """

    image_effect: float
    batch_noise: float
    batch_equals_singles: bool


class Serving(_Stored):
    """How a model answers.

    Attributes:
        path: "slots", or "generate" for the library's own batches; beams and ranked labels are
            never answered in slots.
        why: Why there are no slots.
        slots: Items that are answered at the same time.
        slot_tokens: Prompt and answer together; a longer item is answered by generate.
    """

    path: Literal["slots", "generate"]
    why: str = ""
    slots: int = 0
    slot_tokens: int = 0


class ModelCard(_Stored):
    """How an engine worker describes the model it has loaded.

    Attributes:
        style: "chat" for models that take turns, "plain" for those that continue a text.
        languages: Those that it answers in; none for a model of which nobody has said.
        follows_instructions: Whether a caption can be asked for in any wording.
        defaults: Options of the checkpoint, for requests that do not say otherwise.
        checks: None for a model that is none (echo), as is `serving`.
        fingerprint: Equal for workers whose answers are the same; "" if they are to be made anew
            each time.
    """

    name: str
    family: str
    kinds: list[Kind]
    limits: Limits
    licence: str
    style: Literal["chat", "plain"] = "chat"
    languages: list[str] = []
    follows_instructions: bool = True
    defaults: dict[str, Any] = {}
    checks: Checks | None = None
    serving: Serving | None = None
    fingerprint: str = ""
    note: str = ""
    revision: str = ""
    dtype: str = ""
    quantize: str = ""
    adapter: str = ""
    device: str = ""


#: What each kind needs and may have besides images, examples and options.
_FIELDS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "caption": (frozenset(), frozenset({"prompt", "alt_text", "language", "template"})),
    "vqa": (frozenset({"question"}), frozenset({"language", "template"})),
    "classify": (frozenset({"labels"}), frozenset({"method", "language", "template"})),
    "generate": (frozenset(), frozenset({"prompt", "language", "template"})),
    "chat": (frozenset({"messages"}), frozenset()),
}
#: Fewest and most images; None for what the model takes.
_IMAGES: dict[str, tuple[int, int | None]] = {
    "caption": (1, 1),
    "vqa": (1, None),
    "classify": (1, None),
    "generate": (0, None),
    "chat": (0, None),
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
    _check_counts(kind, request, card)
    _check_template(kind, request)
    _check_messages(request, card)
    _check_lengths(request.get("options", {}), card)
    _check_sampling(request.get("options", {}), card)
    if request.get("method") == "rank":
        for option in sorted(request.get("options", {}).keys() - {"echo"}):
            raise RequestError(f"rank generates nothing: no {option!r}", field=f"options.{option}")


def _check_fields(kind: str, request: dict[str, Any]) -> None:
    needed, allowed = _FIELDS[kind]
    for field in sorted(needed - request.keys()):
        raise RequestError(f"{kind} needs {field!r}", field=field)
    if kind == "generate" and not request.keys() & {"prompt", "template"}:
        raise RequestError("generate needs 'prompt' or 'template'", field="prompt")
    known = needed | allowed | {"kind", "images", "examples", "options"}
    for field in sorted(request.keys() - known):
        raise RequestError(f"{kind} has no {field!r}", field=field)
    if "alt_text" in request:
        for field in sorted({"prompt", "template"} & request.keys()):
            raise RequestError(f"alt_text has a wording of its own: no {field!r}", field=field)


def _check_counts(kind: str, request: dict[str, Any], card: ModelCard) -> None:
    images = len(request.get("images", ()))
    fewest, most = _IMAGES[kind]
    most = card.limits.max_images if most is None else most
    if not fewest <= images <= most:
        wanted = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        raise RequestError(f"{kind} takes {wanted} image(s), not {images}", field="images")
    examples = request.get("examples", ())
    if len(examples) > card.limits.max_examples:
        raise RequestError(
            f"model {card.name!r} takes at most {card.limits.max_examples} examples,"
            f" not {len(examples)}",
            field="examples",
        )
    for number, example in enumerate(examples):
        if "question" in example and kind != "vqa":
            raise RequestError(
                f"an example of {kind} has no 'question'", field=f"examples.{number}.question"
            )


def _check_template(kind: str, request: dict[str, Any]) -> None:
    """An own template must have a place for everything that the request says."""
    if (template := request.get("template")) is None:
        return
    places = re.findall(r"\{(\w+)\}", template)
    for place in places:
        if place not in TEMPLATE_FIELDS | {"images"}:
            raise RequestError(
                f"the template says {{{place}}}, which is no field", field="template"
            )
    fields = {*TEMPLATE_FIELDS & request.keys()}
    if request.get("method") == "rank" and "labels" not in places:
        fields.discard("labels")  # they are the answers; a prompt need not list them
    for field in ("images", *sorted(fields)):
        if places.count(field) != 1:
            raise RequestError(
                f"the template must say {{{field}}} once; it says it {places.count(field)} times",
                field="template",
            )
    for place in sorted({*places} - fields - {"images"}):
        raise RequestError(f"the template says {{{place}}}, the request no {place!r}", field=place)


def _check_messages(request: dict[str, Any], card: ModelCard) -> None:
    messages = request.get("messages")
    if messages is None:
        return
    if messages[-1]["role"] != "user":
        raise RequestError("the last message must be the user's", field="messages")
    shown = [
        part["index"]
        for message in messages
        for part in message["content"]
        if part["type"] == "image"
    ]
    if len(shown) > card.limits.max_images:
        raise RequestError(
            f"images are shown {len(shown)} times; at most {card.limits.max_images} are taken",
            field="messages",
        )
    images = len(request.get("images", ()))
    for index in sorted(shown):
        if index >= images:
            raise RequestError(
                f"image {index} is shown, but there are {images} images", field="messages"
            )
    for index in range(images):
        if index not in shown:
            raise RequestError(f"image {index} is not shown in any message", field="images")


def _check_lengths(options: dict[str, Any], card: ModelCard) -> None:
    limit = card.limits.max_new_tokens
    most = options.get("max_new_tokens", card.defaults.get("max_new_tokens", limit))
    if most > limit:
        raise RequestError(
            f"model {card.name!r} gives at most {limit} tokens, not {most}"
            " (set by its context, or by its operator with IDEFIQ_NEW_TOKENS_LIMIT)",
            field="options.max_new_tokens",
        )
    if options.get("min_new_tokens", 0) > most:
        raise RequestError(
            f"min_new_tokens is above max_new_tokens, which is {most}",
            field="options.min_new_tokens",
        )


def _check_sampling(options: dict[str, Any], card: ModelCard) -> None:
    chosen = {**card.defaults, **options}
    if not chosen.get("do_sample"):
        for option in _SAMPLING:
            if option in options:
                raise RequestError(
                    f"{option!r} is for sampling: set do_sample", field=f"options.{option}"
                )
    elif chosen.get("num_beams", 1) > 1:
        raise RequestError("beams and sampling exclude each other", field="options.num_beams")
