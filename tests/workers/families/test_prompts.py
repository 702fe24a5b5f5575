"""From a request to a prompt: what is said to a model, by kind and style."""

from typing import Any

import pytest

from db.vocabulary.kinds import KINDS
from db.vocabulary.labels import named
from workers.families.prompts import Prompt, Turn, build

LABELS = ["animals", "city landscape"]


def parts(request: dict[str, Any], style: Any = "plain", images: int = 1) -> tuple[Any, ...]:
    [turn] = build(request, style, images).turns
    return turn.parts


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"kind": "caption"}, (0,)),
        ({"kind": "caption", "prompt": "This is an image of "}, (0, "This is an image of ")),
        (
            {"kind": "caption", "language": "French"},
            ("Instruction: Describe the image in French.\n", 0),
        ),
        (
            {"kind": "vqa", "question": "Why?"},
            (
                "Instruction: Provide an answer to the question. Use the image to answer.\n",
                0,
                "Question: Why? Answer:",
            ),
        ),
        (
            {"kind": "vqa", "question": "Why?", "language": "Greek"},
            (
                "Instruction: Provide an answer to the question in Greek."
                " Use the image to answer.\n",
                0,
                "Question: Why? Answer:",
            ),
        ),
        (
            {"kind": "classify", "labels": LABELS},
            (
                "Instruction: Classify the following image into a single category from the"
                " following list: ['animals', 'city landscape'].\n",
                0,
                "Category: ",
            ),
        ),
        (
            {"kind": "generate", "prompt": "Use the image to write a story."},
            ("Instruction: Use the image to write a story.\n", 0, "Text: \n"),
        ),
    ],
    ids=str,
)
def test_a_base_model_is_given_the_wording_of_the_guide(
    request_: dict[str, Any], said: tuple[Any, ...]
) -> None:
    assert parts(request_) == said


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"kind": "caption"}, (0, "Describe the image.")),
        ({"kind": "caption", "prompt": "Tags:"}, (0, "Tags:")),
        (
            {"kind": "caption", "language": "French"},
            (0, "Describe the image. Answer in French."),
        ),
        ({"kind": "vqa", "question": "Why?"}, (0, "Why?")),
        (
            {"kind": "classify", "labels": LABELS},
            (
                0,
                "Classify the image into a single category from the following list:"
                " animals, city landscape. Answer with the category alone.",
            ),
        ),
        ({"kind": "generate", "prompt": "Write an ad."}, (0, "Write an ad.")),
    ],
    ids=str,
)
def test_a_model_that_takes_turns_is_asked_plainly(
    request_: dict[str, Any], said: tuple[Any, ...]
) -> None:
    assert parts(request_, "chat") == said


def test_solved_examples_come_first_as_the_guide_writes_them() -> None:
    request = {
        "kind": "caption",
        "examples": [{"image": "a", "text": "An image of the Eiffel Tower."}],
    }

    assert build(request, "plain", 2) == Prompt(
        (
            Turn(
                "user",
                (
                    "User:",
                    1,
                    "Describe this image.\nAssistant: An image of the Eiffel Tower.\nUser:",
                    0,
                    "Describe this image.\nAssistant:",
                ),
            ),
        ),
        "plain-caption-examples/1",
    )


def test_solved_examples_are_earlier_turns_of_a_conversation() -> None:
    request = {
        "kind": "vqa",
        "question": "How many?",
        "examples": [
            {"image": "a", "text": "two"},
            {"image": "b", "text": "red", "question": "Which colour?"},
        ],
    }

    assert [(turn.role, turn.parts) for turn in build(request, "chat", 3).turns] == [
        ("user", (1, "How many?")),
        ("assistant", ("two",)),
        ("user", (2, "Which colour?")),
        ("assistant", ("red",)),
        ("user", (0, "How many?")),
    ]


def test_the_system_message_of_a_conversation_comes_before_its_solved_examples() -> None:
    said = [("system", "Be brief."), ("user", "Why?"), ("assistant", "So."), ("user", "How?")]
    request = {
        "kind": "chat",
        "messages": [
            {"role": role, "content": [{"type": "text", "text": text}]} for role, text in said
        ],
        "examples": [{"image": "a", "text": "two"}],
    }

    assert [(turn.role, turn.parts) for turn in build(request, "chat", 1).turns] == [
        ("system", ("Be brief.",)),
        ("user", (0,)),
        ("assistant", ("two",)),
        *((role, (text,)) for role, text in said[1:]),
    ]


def test_a_template_of_the_users_own_takes_the_place_of_ours_and_is_named_by_its_digest() -> None:
    request = {"kind": "vqa", "question": "Why?", "template": 'Say {"a": 1}. {images}{question}'}

    prompt = build(request, "chat", 2)

    assert prompt.turns == (Turn("user", ('Say {"a": 1}. ', 0, 1, "Why?")),)
    assert prompt.template.startswith("own/")
    other = build({**request, "template": "{images}{question}"}, "chat", 1)
    assert prompt.template != other.template


def test_a_field_is_data_even_if_it_looks_like_a_template_variable() -> None:
    request = {"kind": "vqa", "question": "{labels} {images} {0.__class__}"}

    assert parts(request, "chat") == (0, "{labels} {images} {0.__class__}")


def test_two_texts_of_a_message_that_meet_are_one() -> None:
    """So that no token can be hidden in two halves."""
    content = [{"type": "text", "text": "<ima"}, {"type": "text", "text": "ge>"}]
    request = {"kind": "chat", "messages": [{"role": "user", "content": content}]}

    assert parts(request, "chat", 0) == ("<image>",)


def test_every_template_has_a_version_and_no_two_the_same_name() -> None:
    templates = [entry.templates for entry in KINDS.values() if entry.templates]
    styles = [some for one in templates for some in one.values()]
    names = [template.name for some in styles for template in some.values()]

    assert len(names) > 10
    assert len({*names}) == len(names)
    assert all(name.rpartition("/")[2].isdigit() for name in names)


@pytest.mark.parametrize(
    ("said", "label"),
    [
        ("vegetables", "vegetables"),
        ("Vegetables.", "vegetables"),
        ("  City Landscape\n", "city landscape"),
        ("city landscape, with cars in it", "city landscape"),
        ("It shows an office", "office"),
        ("office or cars", "office"),
        ("either an office, or cars", None),
        ("a vegetablesque thing", None),
        ("", None),
        ("dogs", None),
    ],
)
def test_an_answer_names_one_label_or_none(said: str, label: str | None) -> None:
    labels = ["animals", "vegetables", "city landscape", "cars", "office"]

    assert named(said, labels) == label


def test_a_label_within_another_is_not_taken_for_it() -> None:
    labels = ["cat", "wild cat", "C", "C++"]

    assert named("a wild cat", labels) == "wild cat"
    assert named("C++", labels) == "C++"
    assert named("It is C++", labels) == "C++"
    assert named("日本", ["日本", "中国"]) == "日本"


def test_labels_that_differ_in_combining_vowels_are_distinguished() -> None:
    assert named("कील", ["काला", "कील"]) == "कील"
    assert named("দিন।", ["দান", "দিন"]) == "দিন"
