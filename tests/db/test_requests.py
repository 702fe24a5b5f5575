"""The canonical request: what is accepted, what is refused and by which name."""

import pytest
from pydantic import ValidationError

from db.cards import Limits, ModelCard, check_effective
from db.errors import RequestError, UnsupportedKind
from db.requests import (
    Request,
    effective,
    options_digest,
    references,
)

IMAGE = "blob:" + "0" * 64
CARD = ModelCard(
    name="m",
    family="echo",
    kinds=["caption", "vqa"],
    limits=Limits(max_images=2, max_examples=0, max_new_tokens=64),
    licence="Apache-2.0",
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

    assert references(request.canonical()) == [IMAGE, IMAGE]


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
        ({"kind": "vqa", "images": [IMAGE]}, "question", "vqa needs 'question'"),
        ({"kind": "caption", "images": []}, "images", "takes 1 image"),
        ({"kind": "caption", "images": [IMAGE, IMAGE]}, "images", "takes 1 image"),
        ({"kind": "vqa", "question": "?", "images": [IMAGE] * 3}, "images", "1 to 2"),
        ({"kind": "caption", "images": [IMAGE], "labels": ["a", "b"]}, "labels", "has no"),
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
            "above max_new_tokens",
        ),
    ],
)
def test_a_request_the_model_cannot_answer_is_refused_by_the_name_of_its_field(
    request_: dict[str, object], field: str, says: str
) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        check_effective(request_, CARD)

    assert caught.value.field == field


def test_a_kind_the_model_cannot_do_is_refused_with_those_it_can() -> None:
    with pytest.raises(UnsupportedKind, match="it can do caption, vqa"):
        check_effective({"kind": "classify", "labels": ["a", "b"], "images": [IMAGE]}, CARD)
