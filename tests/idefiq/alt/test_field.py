"""Images of pages as they are on the web: what is said of each."""

from pathlib import Path

import pytest

from idefiq.alt import files
from idefiq.alt.site import Site
from tests import pictures

issue_26 = pytest.mark.xfail(
    raises=AssertionError, reason="issue 26: alternative text on the web as it is"
)
RIGHT = [
    ("a label by its element", '<img src="a.png" aria-label="Sales">', "ok"),
    ("hidden from readers", '<img src="a.png" aria-hidden="true">', "empty"),
    ("a link's only content", '<a href="x"><img src="a.png"></a>', "ask"),
    ("a button", '<button><img src="a.png"></button>', "ask"),
    ("a decorative role", '<img role="none" src="a.png" alt="">', "ok"),
    ("a person's text", '<img src="a.png" alt="Sales by quarter">', "ok"),
    ("an address that a template makes", '<img src="{{src}}" alt="">', "ok"),
    ("a name in upper case", '<IMG SRC="a.png">', "ask"),
]
WRONG = [
    ("a link's empty picture", '<a href="big.jpg"><img src="a.png" alt=""></a>', "ask"),
    ("a label that is not there", '<img src="a.png" aria-labelledby="nope">', "ask"),
    ("a phone by its name", '<p>The new phone:</p><img src="pixel-8.png">', "ask"),
    ("a heading's only content", '<h1><img src="a.png" alt=""></h1>', "ask"),
    ("a role in upper case", '<img src="a.png" role="Presentation">', "empty"),
    ("hidden in upper case", '<img src="a.png" aria-hidden="TRUE">', "empty"),
    ("a label around a button", '<label>Go<input type="image" src="a.png"></label>', "ok"),
    ("a stem as a text", '<img src="a.png" alt="a">', "ask"),
    ("a dash as a text", '<img src="a.png" alt="-">', "ask"),
]


def states(tmp_path: Path, markup: str | bytes, name: str = "page.html") -> list[str]:
    for picture in ("a.png", "pixel-8.png"):
        (tmp_path / picture).write_bytes(pictures.plain())
    page = tmp_path / name
    if isinstance(markup, bytes):
        page.write_bytes(markup)
    else:
        page.write_text(f'<!DOCTYPE html>\n<html lang="en"><title>t</title><body>{markup}')
    site = Site([files.named(str(page))])
    assert site.unread == [], site.unread
    return [finding.state.value for finding in site]


@pytest.mark.parametrize(
    ("what", "markup", "state"),
    [*RIGHT, *(pytest.param(*case, marks=issue_26) for case in WRONG)],
    ids=lambda value: value if isinstance(value, str) and "<" not in value else "",
)
def test_the_fields_of_an_image(what: str, markup: str, state: str, tmp_path: Path) -> None:
    assert states(tmp_path, markup) == [state], what


@issue_26
@pytest.mark.parametrize("declared", ["utf-16", "unicode", "x-sjis", "windows-874"])
def test_a_page_is_read_in_the_encoding_that_browsers_use_for_its_declared_one(
    declared: str, tmp_path: Path
) -> None:
    real = {"utf-16": "utf-8", "unicode": "utf-8", "x-sjis": "shift_jis", "windows-874": "cp874"}
    text = {"x-sjis": "会社", "windows-874": "บริษัท"}.get(declared, "café")
    page = f'<meta charset="{declared}"><p>{text}</p><img src="a.png">'

    assert states(tmp_path, page.encode(real[declared])) == ["ask"]


@issue_26
def test_a_page_declared_as_xml_that_is_not_well_formed_is_read_as_browsers_do(
    tmp_path: Path,
) -> None:
    page = b'<?xml version="1.0" encoding="iso-8859-1"?><html><p>a<br>b<img src="a.png"></html>'

    assert states(tmp_path, page) == ["ask"]
