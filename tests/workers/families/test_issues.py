"""Issues of answers that are found in their text."""

from typing import Any

import pytest

from db.vocabulary.answer_issues import AnswerIssue
from workers.families.base import Answer, Score
from workers.families.issues import find_issues
from workers.families.languages import language_code

GOOD = (
    "A red circle above a blue square.",
    "A man in a red shirt and a man in a blue shirt and a man in a green shirt",
    "Yes, yes, yes!",
    "no",
    "Bora Bora",
    "The sign says: I'm sorry, we cannot help you today.",
    "Two people who are unable to see each other because of a wall",
    "42 42 42",
    "Shelves with red boxes, blue boxes, green boxes and yellow boxes",
    "哈哈哈",
    "| 0 | 0 | 0 | 0 | 0 | 0 |",
    "00:00:00:00:00",
)


def issues(text: str, finish_reason: str = "stop", **request: Any) -> list[str]:
    answer = Answer(text, finish_reason, prompt_tokens=1, completion_tokens=1, template="t/1")
    record = answer.record("caption")
    return [str(issue) for issue in find_issues({"kind": "caption", **request}, record)]


@pytest.mark.parametrize("text", GOOD)
def test_a_good_answer_has_no_issues(text: str) -> None:
    assert issues(text, language="English", question="What does the picture show?") == []


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_an_answer_without_text_is_empty_and_nothing_else(text: str) -> None:
    assert issues(text, "length", language="French") == ["empty"]


def test_an_answer_that_the_token_limit_ended_is_cut() -> None:
    assert issues("A red circle above", "length") == ["cut"]


@pytest.mark.parametrize(
    "text",
    [
        "a dog dog dog dog",
        "the cat and the cat and the cat and the cat and",
        "A man is standing. A man is standing. A man is standing.",
        "1. a red cup\n2. a red cup\n3. a red cup\n",
        "very nice, very nice, very nice, very nice",
        "It is a long story about the sea, " * 3,
        "一只狗一只狗一只狗",
        "สวยสวยสวยสวย",
    ],
)
def test_a_phrase_that_comes_again_and_again_is_a_repetition(text: str) -> None:
    assert issues(text) == ["repetition"]


def test_a_long_answer_is_checked_in_linear_time_and_its_loop_is_found_at_the_end() -> None:
    words = " ".join(f"word{number}" for number in range(30_000))

    assert issues(words) == []
    assert issues(f"a{chr(10) * 30_000}b") == []
    assert issues(f"a{' ' * 30_000}b") == []
    assert issues(f"{words} and again and again and again and again") == ["repetition"]


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that request.",
        "I\u2019m sorry, I cannot describe people.",
        "As an AI language model, I do not have eyes.",
        "Unfortunately, I am unable to see the image.",
        "Unable to determine the brand.",
        "Sorry, I can't help with that.",
        "The image is blurry, so I cannot describe it.",
        "Based on the image, I cannot determine the name.",
        "I won't be able to help with that.",
        "Tut mir leid, dazu sage ich nichts.",
        "Leider kann ich das nicht erkennen.",
        "The image is unclear. I cannot identify the person.",
        "Es tut mir leid, das geht nicht.",
        "Je suis désolé, mais je ne peux pas répondre.",
        "Lo siento, no puedo ayudar con eso.",
        "抱歉，我无法识别图中的人。",
    ],
)
def test_an_answer_that_says_it_cannot_answer_is_a_refusal(text: str) -> None:
    assert issues(text) == ["refusal"]


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ("What color is the car? It is red.", {"question": "What color is the car?"}),
        ("describe this image for a catalog", {"prompt": "Describe this image for a catalog."}),
        (
            "Name all the animals that you can see here in alphabetical order",
            {"prompt": "Name all the animals that you can see in this picture, please."},
        ),
        ("a cat\nUser: what else?\nAssistant: a dog", {}),
        (
            "Is there a dog? No.",
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image", "index": 0}]},
                    {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
                    {"role": "user", "content": [{"type": "text", "text": "Is there a dog?"}]},
                ]
            },
        ),
    ],
)
def test_an_answer_that_begins_with_the_prompt_or_goes_on_with_its_markers_is_an_echo(
    text: str, request_: dict[str, Any]
) -> None:
    assert issues(text, **request_) == ["prompt_echoed"]


def test_a_short_prompt_that_is_meant_to_begin_the_answer_is_no_echo() -> None:
    assert issues("a photo of a red circle", prompt="a photo of") == []


@pytest.mark.parametrize(
    ("language", "text", "is_wrong"),
    [
        ("French", "A dog runs on the beach with a ball.", True),
        ("fr-CA", "A dog runs on the beach with a ball.", True),
        ("français", "A dog runs on the beach with a ball.", True),
        ("French", "Un chien court sur la plage avec un ballon.", False),
        ("English", "Ein Hund läuft am Strand mit einem Ball.", True),
        ("Simplified Chinese", "一只狗在海滩上奔跑，旁边有一个红色的球", False),
        ("English", "一只狗在海滩上奔跑，旁边有一个红色的球", True),
        ("Norwegian", "en hund løper på stranden med en rød ball", False),
        ("Norwegian", "en hund løber på stranden med en rød bold", False),
        ("French", "red", False),
        ("English", "Tiramisu, spaghetti carbonara and bruschetta on a table", False),
        ("Klingon", "A dog runs on the beach with a ball.", False),
        ("a language that nobody speaks", "A dog runs on the beach with a ball.", False),
        ("Hindi (Latin)", "ek kutta samudra tat par lal gend ke saath daud raha hai", False),
        ("en-\u0660\u0000", "Ein Hund läuft am Strand mit einem Ball.", False),
    ],
)
def test_an_answer_clearly_in_another_language_than_the_requested_one_is_in_a_wrong_one(
    language: str, text: str, is_wrong: bool
) -> None:
    assert issues(text, language=language) == (["wrong_language"] if is_wrong else [])


@pytest.mark.parametrize(
    ("name", "code"),
    [("Deutsch", "de"), ("norsk bokmål", "no"), ("Brazilian Portuguese", "pt"), ("zh-Hant", "zh")],
)
def test_a_language_is_known_by_its_names_and_its_code(name: str, code: str) -> None:
    assert language_code(name) == code


def test_an_answer_may_have_several_issues_in_a_fixed_order() -> None:
    text = "I'm sorry. I'm sorry. I'm sorry. I'm sorry. I'm sorry. I'm sorry. I'm sorry."

    assert issues(text, "length") == ["cut", "repetition", "refusal"]
    assert list(AnswerIssue)[1:4] == ["cut", "repetition", "refusal"]


def test_a_ranked_label_has_no_issues_since_it_is_one_of_the_requests_own() -> None:
    answer = Answer("", "rank", 1, 0, "t/1", scores=(Score("a", -0.1, 0.9),))
    request = {"kind": "classify", "labels": ["a", "b"]}

    assert find_issues(request, answer.record("classify")) == []
