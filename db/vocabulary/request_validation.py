"""Validation of an item's effective request against the model that is to answer it."""

import re
from typing import Any

from db.vocabulary.errors import RequestError, UnsupportedKind
from db.vocabulary.kinds import IMAGE_PLACES, KINDS, TEMPLATE_FIELDS, Kind
from db.vocabulary.model_info import ModelInfo
from db.vocabulary.structures import FORMS, UNSTRUCTURED_OPTIONS

#: Options that apply to sampling only.
SAMPLING_OPTIONS = frozenset({"temperature", "top_p", "top_k", "min_p", "seed"})


def validate_request(request: dict[str, Any], info: ModelInfo) -> None:
    """Reject an effective request that a model cannot answer.

    Raises:
        UnsupportedKind: The model does not support the kind.
        RequestError: A field is missing, not allowed or over a limit of the model.
    """
    kind: Kind = request["kind"]
    if kind not in info.kinds:
        raise UnsupportedKind(
            f"model {info.name!r} does not support kind {kind!r};"
            f" it supports {', '.join(info.kinds)}",
            field="kind",
        )
    _check_fields(kind, request)
    _check_counts(kind, request, info)
    _check_template(kind, request)
    _check_messages(request, info)
    _check_lengths(request.get("options", {}), info)
    _check_sampling(request.get("options", {}), info)
    _check_structure(request, info)
    if request.get("method") == "rank":
        for option in sorted(request.get("options", {}).keys() - {"echo", "image_detail"}):
            raise RequestError(
                f"option {option!r} is not allowed with method 'rank', which generates no text",
                field=f"options.{option}",
            )


def _check_fields(kind: Kind, request: dict[str, Any]) -> None:
    entry = KINDS[kind]
    for field in sorted(entry.required - request.keys()):
        raise RequestError(f"kind {kind!r} requires {field!r}", field=field)
    if entry.one_of and not request.keys() & entry.one_of:
        names = sorted(entry.one_of)
        listed = " or ".join(map(repr, names))
        raise RequestError(f"kind {kind!r} requires {listed}", field=names[0])
    for field in sorted(request.keys() - entry.fields):
        raise RequestError(f"{field!r} is not allowed for kind {kind!r}", field=field)
    if "alt_text" in request:
        for field in sorted({"prompt", "template", *FORMS} & request.keys()):
            raise RequestError(
                f"{field!r} is not allowed together with 'alt_text'",
                field=field,
            )


def _check_structure(request: dict[str, Any], info: ModelInfo) -> None:
    """Check that a structured answer can be generated; see db/vocabulary/structures.py."""
    asked = [form for form in FORMS if form in request]
    if "tool" in request and asked != ["schema"]:
        raise RequestError("'tool' requires the schema of its arguments", field="tool")
    if not asked:
        return
    first, *others = asked
    if others:
        raise RequestError(
            "an answer has one structure: a schema, choices or a pattern", field=others[0]
        )
    if not info.structured:
        raise RequestError(f"model {info.name!r} gives no structured answers", field=first)
    for option, neutral in UNSTRUCTURED_OPTIONS.items():
        if request.get("options", {}).get(option, neutral) != neutral:
            raise RequestError(
                f"option {option!r} is not allowed for a structured answer: its structure alone"
                " says what it is and where it ends",
                field=f"options.{option}",
            )


def _check_counts(kind: Kind, request: dict[str, Any], info: ModelInfo) -> None:
    images = len(request.get("images", ()))
    entry, most = KINDS[kind], info.limits.max_images
    most = most if entry.max_images is None else min(most, entry.max_images)
    fewest = max(entry.min_images, info.limits.min_images)
    if not fewest <= images <= most:
        wanted = f"{most}" if fewest == most else f"{fewest} to {most}"
        raise RequestError(f"kind {kind!r} takes {wanted} image(s), not {images}", field="images")
    examples = request.get("examples", ())
    if len(examples) > info.limits.max_examples:
        raise RequestError(
            f"model {info.name!r} takes at most {info.limits.max_examples} examples,"
            f" not {len(examples)}",
            field="examples",
        )
    for number, example in enumerate(examples):
        if "question" in example and not entry.example_questions:
            raise RequestError(
                f"'question' is not allowed in an example of kind {kind!r}",
                field=f"examples.{number}.question",
            )


def _check_template(kind: Kind, request: dict[str, Any]) -> None:
    """Check that a custom template has a placeholder for every field of the request."""
    if (template := request.get("template")) is None:
        return
    places = _places(template)
    if "image" in places and "images" not in places:
        _check_image_places(places.count("image"), request)
        places = ["images", *(place for place in places if place != "image")]
    fields = {*TEMPLATE_FIELDS & request.keys()}
    if request.get("method") == "rank" and "labels" not in places:
        fields.discard("labels")  # the labels are the answers; a prompt need not list them
    for field in ("images", *sorted(fields)):
        if places.count(field) != 1:
            raise RequestError(
                f"the template must contain {{{field}}} exactly once,"
                f" not {places.count(field)} times",
                field="template",
            )
    for place in sorted({*places} - fields - {"images"}):
        raise RequestError(
            f"the template contains {{{place}}}, but the request has no {place!r}", field=place
        )


def _places(template: str) -> list[str]:
    """Return what a template has places for, in its order."""
    places = re.findall(r"\{(\w+)\}", template)
    for place in places:
        if place not in TEMPLATE_FIELDS | IMAGE_PLACES:
            raise RequestError(
                f"unknown placeholder in the template: {{{place}}}", field="template"
            )
    return places


def _check_image_places(count: int, request: dict[str, Any]) -> None:
    """Check that each image of an item, and of an example, has a place of its own."""
    images = len(request.get("images", ()))
    if count != images:
        raise RequestError(
            f"the template contains {{image}} {count} times, but the item has {images} images;"
            " {images} stands for all of them",
            field="template",
        )
    if count != 1 and request.get("examples"):
        raise RequestError(
            f"an example has one image, but the template contains {{image}} {count} times",
            field="template",
        )


def _check_messages(request: dict[str, Any], info: ModelInfo) -> None:
    messages = request.get("messages")
    if messages is None:
        return
    if messages[-1]["role"] != "user":
        raise RequestError("the last message must have the role 'user'", field="messages")
    shown = [
        part["index"]
        for message in messages
        for part in message["content"]
        if part["type"] == "image"
    ]
    if len(shown) > info.limits.max_images:
        raise RequestError(
            f"the messages contain {len(shown)} images;"
            f" the model takes at most {info.limits.max_images}",
            field="messages",
        )
    images = len(request.get("images", ()))
    for index in sorted(shown):
        if index >= images:
            raise RequestError(
                f"a message refers to image {index}, but the item has {images} images",
                field="messages",
            )
    for index in range(images):
        if index not in shown:
            raise RequestError(f"no message refers to image {index}", field="images")


def _check_lengths(options: dict[str, Any], info: ModelInfo) -> None:
    limit = info.limits.max_new_tokens
    most = options.get("max_new_tokens", info.defaults.get("max_new_tokens", limit))
    if most > limit:
        raise RequestError(
            f"model {info.name!r} generates at most {limit} tokens, not {most}"
            " (set by its context, or by its operator with IDEFIQ_NEW_TOKENS_LIMIT)",
            field="options.max_new_tokens",
        )
    if options.get("min_new_tokens", 0) > most:
        raise RequestError(
            f"min_new_tokens is greater than max_new_tokens, which is {most}",
            field="options.min_new_tokens",
        )


def _check_sampling(options: dict[str, Any], info: ModelInfo) -> None:
    chosen = {**info.defaults, **options}
    if not chosen.get("do_sample"):
        for option in sorted(SAMPLING_OPTIONS & options.keys()):
            raise RequestError(
                f"option {option!r} applies to sampling only: set do_sample to true",
                field=f"options.{option}",
            )
    elif chosen.get("num_beams", 1) > 1:
        raise RequestError("num_beams and do_sample exclude each other", field="options.num_beams")
