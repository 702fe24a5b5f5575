"""How a chat completion becomes an item."""

from typing import Any, cast

import pytest

from db.openai.chat_fields import NEUTRAL
from db.openai.chat_request import ChatIn
from db.queue.data_images import DataImages
from db.queue.item_checker import ItemChecker
from db.vocabulary.errors import RequestError
from db.vocabulary.limits import OwnerLimits
from db.vocabulary.model_info import ModelInfo
from db.vocabulary.requests import Request
from tests.served import CARD

A, B = "https://example.com/a.jpg", "https://example.com/b.jpg"


def asked(card: ModelInfo = CARD, **fields: Any) -> dict[str, Any]:
    return asked_often(card, **fields)[0]


def asked_often(card: ModelInfo = CARD, **fields: Any) -> list[dict[str, Any]]:
    body = {"model": "echo", "messages": [{"role": "user", "content": "What?"}], **fields}
    nowhere = cast("Any", None)  # no image is stored here
    images = DataImages(nowhere, nowhere, 1, OwnerLimits(), 1_000)
    limits = CARD.limits.model_copy(update={"max_images": 8})
    checker = ItemChecker(card.model_copy(update={"limits": limits}), images, Request())
    return [item.request for item in ChatIn.from_body(body).items(checker, body)]


def test_each_choice_is_an_item_with_a_seed_of_its_own() -> None:
    items = asked_often(n=3, temperature=0.5, seed=2**63 - 2)

    assert [item["options"].pop("seed") for item in items] == [2**63 - 2, 2**63 - 1, 0]
    assert items[0] == items[1] == items[2]
    assert len(asked_often(n=1)) == 1


def test_choices_that_would_be_equal_are_refused() -> None:
    with pytest.raises(RequestError, match="set temperature") as refused:
        asked_often(n=2, temperature=0)

    assert refused.value.field == "n"


def image(url: str, detail: str | None = None) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, "detail": detail}}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def test_messages_keep_their_order_and_an_image_shown_twice_is_one() -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [text("Which?"), image(A), image(B)]},
        {"role": "assistant", "content": "The first."},
        {"role": "user", "content": [image(A), text("Why?")]},
    ]

    request = asked(messages=messages)

    assert request == {
        "kind": "chat",
        "images": [A, B],
        "messages": [
            {"role": "system", "content": [text("Be brief.")]},
            {
                "role": "user",
                "content": [
                    text("Which?"),
                    {"type": "image", "index": 0},
                    {"type": "image", "index": 1},
                ],
            },
            {"role": "assistant", "content": [text("The first.")]},
            {"role": "user", "content": [{"type": "image", "index": 0}, text("Why?")]},
        ],
    }


@pytest.mark.parametrize(
    ("details", "seen"),
    [
        (["low", "low"], "low"),
        (["low", "high"], "high"),
        ([None, "original"], "high"),
        (["low", None], None),
        (["auto", "auto"], None),
    ],
)
def test_images_of_a_conversation_are_seen_at_the_finest_detail_that_is_asked_for(
    details: list[str | None], seen: str | None
) -> None:
    content = [image(url, detail) for url, detail in zip((A, B), details, strict=True)]

    request = asked(messages=[{"role": "user", "content": content}])

    assert request.get("options", {}).get("image_detail") == seen


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, None),
        ({"temperature": 0, "seed": 7, "top_p": 0.5}, {"do_sample": False}),
        ({"temperature": 0.5, "seed": 7}, {"do_sample": True, "temperature": 0.5, "seed": 7}),
        ({"top_p": 0.5, "seed": 7}, {"do_sample": True, "top_p": 0.5, "seed": 7}),
        ({"top_p": 1}, None),
        ({"max_tokens": 5}, {"max_new_tokens": 5}),
        ({"max_tokens": 9, "max_completion_tokens": 5}, {"max_new_tokens": 5}),
        ({"stop": "x"}, {"stop": ["x"]}),
        ({"stop": ["x", "y"]}, {"stop": ["x", "y"]}),
        ({"num_beams": 2, "repetition_penalty": 1.5}, {"num_beams": 2, "repetition_penalty": 1.5}),
        (
            {"presence_penalty": -0.5, "frequency_penalty": 0.5},
            {"presence_penalty": -0.5, "frequency_penalty": 0.5},
        ),
        ({"user": "u", "store": False, "metadata": {"a": "b"}, "service_tier": "auto"}, None),
        ({name: allowed[-1] for name, allowed in NEUTRAL.items()}, None),
    ],
)
def test_options_have_their_meaning_or_none(
    fields: dict[str, Any], options: dict[str, Any] | None
) -> None:
    assert asked(**fields).get("options") == options


@pytest.mark.parametrize("fields", [{"top_k": 0}, {"min_p": 0}, {"min_p": 0, "temperature": 0}])
def test_options_that_narrow_nothing_ask_for_nothing(fields: dict[str, Any]) -> None:
    assert "top_k" not in asked(**fields).get("options", {})
    assert "min_p" not in asked(**fields).get("options", {})


def test_a_sampled_answer_has_a_seed_so_that_a_retry_gives_the_same_text() -> None:
    drawn = [asked(temperature=1)["options"]["seed"] for _ in range(2)]

    assert drawn[0] != drawn[1]


def test_more_tokens_than_the_model_gives_are_a_maximum_and_no_mistake() -> None:
    assert asked(max_tokens=4_000)["options"] == {"max_new_tokens": CARD.limits.max_new_tokens}


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"n": 9}, "n"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
        ({"frequency_penalty": 2.1}, "frequency_penalty"),
        ({"nonsense": 1}, "nonsense"),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 0, "max_tokens": 5}, "max_completion_tokens"),
        ({"messages": []}, "messages"),
        ({"top_p": 0}, "top_p"),
        ({"messages": [{"role": "user", "content": [text("x")] * 201}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [image(f"{A}{n}") for n in range(9)]}]},
            "messages",
        ),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": {}}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "messages[0].content[0]",
        ),
        (
            {"messages": [{"role": "user", "content": [text("x"), image("ftp://x")]}]},
            "messages[0].content[1].image_url",
        ),
        ({"messages": [{"role": "user", "content": ""}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
            "messages[0].content[0].text",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{**text("x"), "image_url": None}, image("ftp:a")]}
                ]
            },
            "messages[0].content[1].image_url",
        ),
        ({"stop": "x" * 201}, "stop"),
        ({"stop": ["", "x"]}, "stop[0]"),
        ({"seed": -1, "temperature": 1}, "seed"),
        ({"seed": -1}, "seed"),
        ({"top_k": -1, "temperature": 0}, "top_k"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(fields: dict[str, Any], where: str) -> None:
    with pytest.raises(RequestError) as caught:
        asked(**fields)

    assert caught.value.field == where
