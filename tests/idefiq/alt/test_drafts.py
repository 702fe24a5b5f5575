"""Asking for drafts, and what becomes of what people have made of them."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from idefiq.alt import files
from idefiq.alt.drafts import DraftOutcome, language_name, language_tag, outcomes
from idefiq.alt.site import Site
from idefiq.reviews import Review
from tests import pictures


def review(key: str, state: str, text: str | None = "A text.", **said: Any) -> Review:
    usual = {
        "job": "job_1", "index": 0, "custom_id": key, "page": "", "state": state, "text": text,
        "long_description": None, "language": "English", "revision": 1, "reviewer": "Ada",
        "reviewed_at": datetime.now(UTC), "images": [], "context": {}, "draft": {}, "history": [],
    }  # fmt: skip
    return Review(**{**usual, **said})


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "a.png").write_bytes(pictures.plain())
    (tmp_path / "a.html").write_text(
        '<html lang="de-AT"><img src="a.png"><a href="x"><img src="a.png">Words</a>'
    )
    return Site([files.named(str(tmp_path / "a.html"))])


@pytest.mark.parametrize(
    ("state", "text", "expected"),
    [
        ("accepted", "A text.", DraftOutcome("A text.", is_draft=False, language="en")),
        ("edited", " Ein  Text. ", DraftOutcome("Ein Text.", is_draft=False, language="en")),
        ("decorative", "", DraftOutcome("", is_draft=False)),
        ("rejected", "A text.", None),
        ("unreviewed", "A text.", None),
    ],
)
def test_what_people_have_decided_is_written_and_nothing_else(
    state: str, text: str, expected: DraftOutcome | None, site: Site
) -> None:
    found = outcomes(site, [review(site.findings[0].key, state, text)], with_drafts=False)

    assert found.get(0) == expected
    assert found[1] == DraftOutcome("", is_draft=False)


def test_drafts_are_written_on_request_and_marked(site: Site) -> None:
    drafted = review(site.findings[0].key, "unreviewed")

    assert outcomes(site, [drafted], with_drafts=True)[0].is_draft


def test_a_review_of_a_replaced_image_is_not_applied(site: Site) -> None:
    assert 0 not in outcomes(site, [review("another", "accepted")], with_drafts=True)


@pytest.mark.parametrize(
    ("language", "expected"), [("English", "en"), ("German", ""), (None, ""), ("Elvish", "")]
)
def test_a_text_in_another_language_than_the_page_gets_a_lang_attribute(
    language: str | None, expected: str, site: Site
) -> None:
    said = review(site.findings[0].key, "accepted", language=language)

    assert outcomes(site, [said], with_drafts=False)[0].language == expected


@pytest.mark.parametrize(
    ("tag", "name"),
    [("de", "German"), ("de-AT", "German"), ("pt-BR", "Portuguese"), ("zh-Hant", "Chinese"),
     ("", ""), ("x-klingon", ""), ("not a tag", "")],
)  # fmt: skip
def test_a_page_s_language_is_asked_for_by_its_name(tag: str, name: str) -> None:
    assert language_name(tag) == name


def test_a_language_has_its_tag_back() -> None:
    assert [language_tag(name) for name in ("German", "english", "Nobody")] == ["de", "en", ""]
