"""The canonical request: what is accepted, what is refused and by which name."""

from typing import get_args

import pytest
from pydantic import ValidationError

from db.vocabulary.errors import RequestError, UnsupportedKind
from db.vocabulary.kinds import KINDS, Kind, kinds_of
from db.vocabulary.model_info import ModelInfo, ModelLimits
from db.vocabulary.request_validation import validate_request
from db.vocabulary.requests import (
    Request,
    effective,
    example_references,
    image_references,
    options_digest,
)

IMAGE = "blob:" + "0" * 64
CARD = ModelInfo(
    name="m",
    family="echo",
    kinds=["caption", "vqa"],
    limits=ModelLimits(max_images=2, max_examples=0, max_new_tokens=64),
    license="Apache-2.0",
)


@pytest.mark.parametrize(
    "reference",
    [IMAGE, "https://a.example/b.png?c=d", "s3://bucket/a/b.png", "data:image/png;base64,iVBO"],
)
def test_the_four_forms_of_a_reference_are_accepted(reference: str) -> None:
    assert Request(images=[reference]).images == [reference]


@pytest.mark.parametrize(
    "reference",
    ["", "/etc/passwd", "file:///etc/passwd", "blob:abc", "ftp://a/b", "s3://bucket", "http://"],
)
def test_anything_else_is_refused_with_the_forms_that_work(reference: str) -> None:
    with pytest.raises(ValidationError, match="blob:SHA256"):
        Request(images=[reference])


@pytest.mark.parametrize(
    "reference",
    [
        "http://" + "a" * 2_000_000 + " ",
        "s3://" + "a/" * 1_000_000 + " ",
        "data:image/" + "a" * 10**6,
    ],
    ids=["http", "s3", "data"],
)
def test_a_long_nonsense_reference_is_refused_in_linear_time(reference: str) -> None:
    with pytest.raises(ValidationError):  # a second look at each character would take hours
        Request(images=[reference])


@pytest.mark.parametrize("field", ["prompt", "question"])
def test_the_character_that_postgres_cannot_store_is_refused(field: str) -> None:
    with pytest.raises(ValidationError, match="NUL"):
        Request.model_validate({field: "a\0b"})


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="promt"):
        Request.model_validate({"promt": "a typo"})


def test_examples_and_chat_have_their_place() -> None:
    request = Request.model_validate(
        {
            "kind": "chat",
            "images": [IMAGE],
            "examples": [{"image": IMAGE, "text": "a cat"}],
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image", "index": 0}, {"type": "text", "text": "hi"}],
                }
            ],
        }
    )

    assert image_references(request.canonical()) == [IMAGE]
    assert example_references(request.canonical()) == [IMAGE]


def test_an_item_overlays_its_jobs_defaults_option_by_option() -> None:
    merged = effective(
        {"kind": "vqa", "question": "Why?", "options": {"num_beams": 2, "max_new_tokens": 5}},
        {"question": "How?", "options": {"max_new_tokens": 9}},
    )

    assert merged == {
        "kind": "vqa",
        "question": "How?",
        "options": {"num_beams": 2, "max_new_tokens": 9},
    }


def test_items_that_differ_in_text_alone_may_share_a_batch() -> None:
    one = {"kind": "vqa", "question": "Why?", "options": {"num_beams": 2}}

    assert options_digest(one) == options_digest({**one, "question": "How?"})
    assert options_digest(one) != options_digest({**one, "kind": "caption"})
    assert options_digest(one) != options_digest({**one, "options": {"num_beams": 3}})


@pytest.mark.parametrize(
    ("request_", "field", "says"),
    [
        ({"kind": "vqa", "images": [IMAGE]}, "question", "kind 'vqa' requires 'question'"),
        ({"kind": "caption", "images": []}, "images", "takes 1 image"),
        ({"kind": "caption", "images": [IMAGE, IMAGE]}, "images", "takes 1 image"),
        ({"kind": "vqa", "question": "?", "images": [IMAGE] * 3}, "images", "1 to 2"),
        (
            {"kind": "caption", "images": [IMAGE], "labels": ["a", "b"]},
            "labels",
            "not allowed for kind",
        ),
        (
            {"kind": "caption", "images": [IMAGE], "examples": [{"image": IMAGE, "text": "x"}]},
            "examples",
            "at most 0 examples",
        ),
        (
            {"kind": "caption", "images": [IMAGE], "options": {"max_new_tokens": 65}},
            "options.max_new_tokens",
            "at most 64 tokens",
        ),
        (
            {
                "kind": "caption",
                "images": [IMAGE],
                "options": {"max_new_tokens": 3, "min_new_tokens": 4},
            },
            "options.min_new_tokens",
            "greater than max_new_tokens",
        ),
    ],
)
def test_a_request_the_model_cannot_answer_is_refused_by_the_name_of_its_field(
    request_: dict[str, object], field: str, says: str
) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        validate_request(request_, CARD)

    assert caught.value.field == field


def test_what_an_item_gets_by_default_is_no_limit_of_what_it_may_ask_for() -> None:
    card = CARD.model_copy(update={"defaults": {"max_new_tokens": 16}})
    request = {"kind": "caption", "images": [IMAGE]}

    validate_request({**request, "options": {"max_new_tokens": 64}}, card)
    with pytest.raises(RequestError, match="greater than max_new_tokens, which is 16"):
        validate_request({**request, "options": {"min_new_tokens": 17}}, card)


def test_a_kind_the_model_cannot_do_is_refused_with_those_it_can() -> None:
    with pytest.raises(UnsupportedKind, match="it supports caption, vqa"):
        validate_request({"kind": "classify", "labels": ["a", "b"], "images": [IMAGE]}, CARD)


ABLE = ModelInfo(
    name="m",
    family="idefics2",
    kinds=["caption", "vqa", "classify", "generate", "chat"],
    limits=ModelLimits(max_images=3, max_examples=2, max_new_tokens=64),
    license="Apache-2.0",
)
LABELS = {"kind": "classify", "images": [IMAGE], "labels": ["a", "b"]}
SHOT = {"image": IMAGE, "text": "x"}


def message(role: str, *parts: str | int) -> dict[str, object]:
    return {
        "role": role,
        "content": [
            {"type": "image", "index": part}
            if isinstance(part, int)
            else {"type": "text", "text": part}
            for part in parts
        ],
    }


def chat(*messages: dict[str, object], images: int = 0) -> dict[str, object]:
    return {"kind": "chat", "images": [IMAGE] * images, "messages": [*messages]}


@pytest.mark.parametrize(
    "request_",
    [
        LABELS,
        {**LABELS, "method": "rank", "template": "{images}What is it?"},
        {**LABELS, "language": "French", "examples": [SHOT, SHOT]},
        {"kind": "generate", "prompt": "Write.", "images": []},
        {"kind": "generate", "template": "{images}Story:", "images": [IMAGE]},
        {"kind": "vqa", "question": "?", "images": [IMAGE], "template": "{images}Q: {question}"},
        chat(message("user", "hi")),
        chat(message("user", 0), message("assistant", "yes"), message("user", 1, "?"), images=2),
        {"kind": "caption", "images": [IMAGE], "options": {"do_sample": True, "seed": 1}},
    ],
    ids=str,
)
def test_every_kind_has_its_fields(request_: dict[str, object]) -> None:
    Request.model_validate(request_)
    validate_request(request_, ABLE)


@pytest.mark.parametrize(
    ("request_", "field", "says"),
    [
        ({"kind": "classify", "images": [IMAGE]}, "labels", "requires 'labels'"),
        ({"kind": "generate", "images": []}, "prompt", "requires 'prompt' or 'template'"),
        ({"kind": "chat", "images": []}, "messages", "requires 'messages'"),
        ({**LABELS, "question": "?"}, "question", "'question' is not allowed for kind 'classify'"),
        ({**LABELS, "examples": [SHOT] * 3}, "examples", "at most 2 examples"),
        (
            {**LABELS, "examples": [{**SHOT, "question": "?"}]},
            "examples.0.question",
            "'question' is not allowed in an example of kind 'classify'",
        ),
        (
            {**LABELS, "template": "{images}"},
            "template",
            "must contain {labels} exactly once, not 0 times",
        ),
        ({**LABELS, "template": "{labels}"}, "template", "must contain {images} exactly once"),
        (
            {"kind": "generate", "images": [IMAGE], "template": "{image} and {image}"},
            "template",
            "contains {image} 2 times, but the item has 1 images",
        ),
        (
            {"kind": "generate", "images": [IMAGE], "template": "{image} {images}"},
            "image",
            "contains {image}, but the request has no 'image'",
        ),
        (
            {
                "kind": "generate",
                "images": [IMAGE] * 2,
                "template": "{image} and {image}",
                "examples": [SHOT],
            },
            "template",
            "an example has one image, but the template contains {image} 2 times",
        ),
        (
            {**LABELS, "template": "{images}{labels}{lables}"},
            "template",
            "unknown placeholder in the template: {lables}",
        ),
        (
            {**LABELS, "template": "{images}{labels}{question}"},
            "question",
            "contains {question}, but the request has no 'question'",
        ),
        (
            {**LABELS, "template": "{images}{labels}", "language": "French"},
            "template",
            "must contain {language} exactly once",
        ),
        (
            {**LABELS, "method": "rank", "options": {"num_beams": 2}},
            "options.num_beams",
            "is not allowed with method 'rank'",
        ),
        (
            {"kind": "caption", "images": [IMAGE], "method": "rank"},
            "method",
            "'method' is not allowed",
        ),
        (chat(message("assistant", "hi")), "messages", "must have the role 'user'"),
        (chat(message("user", 0)), "messages", "refers to image 0, but the item has 0 images"),
        (chat(message("user", "hi"), images=1), "images", "no message refers to image 0"),
        (
            chat(message("user", *[0] * 4), images=1),
            "messages",
            "the messages contain 4 images; the model takes at most 3",
        ),
        (
            {"kind": "caption", "images": [IMAGE], "options": {"temperature": 0.5}},
            "options.temperature",
            "set do_sample",
        ),
        (
            {
                "kind": "caption",
                "images": [IMAGE],
                "options": {"do_sample": True, "num_beams": 2},
            },
            "options.num_beams",
            "exclude each other",
        ),
    ],
    ids=str,
)
def test_what_does_not_belong_together_is_refused_by_the_name_of_its_field(
    request_: dict[str, object], field: str, says: str
) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        validate_request(request_, ABLE)

    assert caught.value.field == field


def test_a_checkpoint_that_samples_by_default_accepts_a_temperature() -> None:
    sampling = ABLE.model_copy(update={"defaults": {"do_sample": True}})
    request = {"kind": "caption", "images": [IMAGE], "options": {"temperature": 0.5}}

    validate_request(request, sampling)


@pytest.mark.parametrize(
    "wrong",
    [
        {"labels": ["a"]},
        {"labels": ["a", "a "]},
        {"labels": ["a", " "]},
        {"messages": []},
        {"messages": [{"role": "user", "content": []}]},
        {"messages": [{"role": "tool", "content": [{"type": "text", "text": "x"}]}]},
        {"options": {"seed": -1}},
        {"options": {"temperature": 0}},
        {"options": {"top_p": 1.5}},
        {"options": {"stop": [""]}},
        {"template": "x" * 4001},
        {"method": "guess"},
    ],
    ids=str,
)
def test_values_out_of_bounds_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Request.model_validate(wrong)


def test_items_with_seeds_of_their_own_share_a_batch() -> None:
    one = {"kind": "caption", "options": {"do_sample": True, "seed": 1}}
    other = {"kind": "caption", "options": {"do_sample": True, "seed": 2, "echo": True}}

    assert options_digest(one) == options_digest(other)


def test_generated_and_ranked_labels_never_share_a_batch() -> None:
    assert options_digest(LABELS) != options_digest({**LABELS, "method": "rank"})


def test_there_is_one_entry_for_each_kind() -> None:
    assert list(KINDS) == list(get_args(Kind))
    assert kinds_of("chat") == list(KINDS)
    assert kinds_of("plain") == [kind for kind in KINDS if kind != "chat"]
