"""The linter of text alternatives, and what it puts right without a model."""

import pytest

from idefiq.alt.wording import is_file_name, is_placeholder, lint, tidy


def codes(text: str, **said: object) -> list[str]:
    return [objection.code for objection in lint(text, **said)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "A gull sits on a mooring post.",
        "Harbour Museum",
        "Painting of a stormy sea by Anna Holm",
        "iPhone 12 beside a coin",
        "Sales rose from 3 to 9 million euros between 2010 and 2020.",
        "Two hands hold a cup, seen from above",
        "Logo",
        "Bar chart: visitors by month",
        "NASA",
        "Satellite image of the Baltic Sea",
        "Ein Boot im Hafen",
        "港に停泊する船",
    ],
)
def test_a_good_text_is_left_alone(text: str) -> None:
    assert lint(text) == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (" ", "blank"),
        ("boat.png", "file_name"),
        ("img/boat.JPG", "file_name"),
        ("IMG_20240501_101112", "file_name"),
        ("DSC_0042", "file_name"),
        ("screenshot-2024-05-01", "file_name"),
        ("9f86d081884c7d659a2feaa0c55ad015", "file_name"),
        ("image", "placeholder"),
        ("Image 12", "placeholder"),
        ("[photo]", "placeholder"),
        ("alt text", "placeholder"),
        ("Insert alt text here", "placeholder"),
        ("TODO", "placeholder"),
        ("...", "placeholder"),
        ("Bild", "placeholder"),
        ("An image of a gull", "lead_in"),
        ("The picture shows a gull", "lead_in"),
        ("This is a photograph of a gull", "lead_in"),
        ("Icon of a lens", "lead_in"),
        ("Ein Foto von einer Möwe", "lead_in"),
        ("Une image de mouette", "lead_in"),
        ("Alt text: A gull", "lead_in"),
        ("I cannot see the image", "refusal"),
        ("As an AI model, I describe a gull", "refusal"),
        ("A gull <b>on</b> a post", "markup"),
        ("A gull, see https://example.org", "markup"),
        ("A gull\non a post", "markup"),
        ("Fish &amp; chips", "markup"),
        ("A boat a boat a boat in the harbour", "loop"),
        ("Very very very old ships", "loop"),
        ("A GULL ON A MOORING POST", "capitals"),
        ("a gull on a post", "lower_case"),
        (" A gull", "spaces"),
        ("A gull sits on the", "unfinished"),
        ("A gull, a post,", "unfinished"),
    ],
)
def test_what_is_wrong_is_named(text: str, code: str) -> None:
    assert code in codes(text)


def test_a_draft_does_not_repeat_the_text_beside_the_image() -> None:
    assert codes("The Ida, 1910.", near=["the ida 1910"]) == ["repeats"]
    assert codes("The Ida under sail", near=["The Ida, 1910"]) == []


def test_a_long_text_is_advised_against_and_no_error() -> None:
    text = "A harbour with " + ", ".join(f"boat {n}" for n in range(30))

    [objection] = lint(text)

    assert (objection.code, objection.is_error) == ("long", False)
    assert objection.message == f"{len(text)} characters; 125 are aimed at"
    assert lint(text, target_length=1_000) == []


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("an image of a gull", "A gull"),
        ("This picture shows the harbour.", "The harbour."),
        ('"A gull."', "A gull."),
        ("“A gull.”", "A gull."),
        ("Alt text: a gull", "A gull"),
        ("Caption: The image shows a gull", "A gull"),
        ("  a   gull\n on a post ", "A gull on a post"),
        ("A satellite image of the sea", "A satellite image of the sea"),
        ("Imagery of the war", "Imagery of the war"),
        ("Photography class", "Photography class"),
        ("", ""),
        ('"', '"'),
    ],
)
def test_a_draft_is_tidied(said: str, expected: str) -> None:
    assert tidy(said) == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("A gull sits. The boat is moo", "A gull sits."),
        ("A gull sits on a mooring po", "A gull sits on a mooring"),
        ("A gull, a pos", "A gull, a"),
        ("A gull, pos", "A gull"),
        ("Gull", "Gull"),
        ('He said "Ahoy!" and lef', 'He said "Ahoy!"'),
    ],
)
def test_a_text_that_was_stopped_is_never_cut_in_a_word(said: str, expected: str) -> None:
    assert tidy(said, is_cut=True) == expected


def test_a_long_text_is_never_shortened() -> None:
    text = "A gull sits on a mooring post and looks at the boats. " * 5

    assert tidy(text) == text.strip()


@pytest.mark.parametrize(
    "text", ["a b", "boat", "3 boats", "Photo finish", "Pictures at an exhibition"]
)
def test_words_are_neither_names_of_files_nor_placeholders(text: str) -> None:
    assert not is_file_name(text)
    assert not is_placeholder(text)
