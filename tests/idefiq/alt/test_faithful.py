"""Byte-faithfulness: whatever a page is, writing texts into it changes nothing else."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idefiq.alt import files, markdown
from idefiq.alt.drafts import DraftOutcome
from idefiq.alt.places import Document, Place, in_tags
from idefiq.alt.site import Site
from idefiq.alt.tags import Edit, apply, set_attributes
from idefiq.alt.text import PageText
from idefiq.alt.tree import html_tree
from idefiq.errors import IdefiqError

QUOTES = st.sampled_from(['"', "'"])
#: What a text may be: everything that HTML and Markdown make something of, and anything else.
TEXTS = st.lists(
    st.sampled_from([*"ab é日😀&<>\"'`*_[]()\\|~$!#-:/", "&amp;", "-->", "]]>", "</p>"]),
    max_size=12,
).map("".join)
#: Markup that pages are made of, whole and broken.
PIECES = st.sampled_from(
    [
        "<p>", "</p>", "<div class='a'>", "</div>", "<a href=x>", "</a>", "<table><tr><td>",
        "</table>", "<!-- <img src=no> -->", "<script>'<img src=no>'</script>", "<textarea>",
        "</textarea>", "<title>", "</title>", "<svg>", "</svg>", "<template>", "</template>",
        "<noscript>", "</noscript>", "<style>a{}</style>", "<", ">", "&amp;", "&nbsp", "</", "<!",
        "<b", "\r\n", "\r", "\n", "\t", "\0", "é", "日本",
        "😀", "text ", "<![CDATA[x]]>", "<select>",
        "</select>", "<plaintext-not>", "<xmp>", "</xmp>", "=",
        '"', "'",
    ]
)  # fmt: skip


@st.composite
def attributes(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(["src", "SRC", "class", "width", "data-x", "alt", "ALT", "title"]))
    form = draw(st.integers(0, 4))
    value = draw(st.sampled_from(["", "a.png", "x y", "é", "a>b", "1", "/", "a&amp;b", "=", "\n"]))
    if form == 0:
        return name
    if form == 1:
        return f"{name}={re.sub(r'[^a-z0-9.]', '', value)}"
    quote, space = draw(QUOTES), draw(st.sampled_from(["", " ", "\r\n"]))
    return f"{name}{space}={space}{quote}{value}{quote}"


@st.composite
def images(draw: st.DrawFn, spaces: tuple[str, ...] = (" ", "\n", "  ", "\t")) -> str:
    tag = draw(st.sampled_from(["<img", "<IMG", "<input type=image", "<amp-img"]))
    said = draw(st.lists(attributes(), max_size=5))
    space = draw(st.sampled_from(spaces))
    end = draw(st.sampled_from([">", "/>", " >", " />", "\n>"]))
    return space.join([tag, *said]) + end


HTML = st.lists(st.one_of(PIECES, images()), max_size=14).map("".join)
MARKDOWN = st.lists(
    st.one_of(
        images(spaces=(" ", "\n")),  # the parser takes a tab for a part of an unquoted value
        st.sampled_from(
            [
                "![", "]", "(a.png)", "![](a.png)", "![old](a.png 'title')", "![a][r]", "![r]",
                "![R][]", "![a *b* `c`](<a b.png>)", "[![](a.png)](x)", "\n\n", "\n", "- ", "> ",
                "# ", "    ", "```\n", "`", "*", "_", "\\", "| a | b |\n|--|--|\n", "é",
                "😀", "\r\n", "<div>\n", "</div>\n", "<!-- x -->", "<!--alt-draft-->",
                "<!--decorative-->",
                "&amp;", "![[x]]", "[^1]", "\n[^1]: note\n", "---\ntitle: x\n---\n", "~~", "$", ":",
            ]
        ),
    ),
    max_size=14,
).map(lambda pieces: "".join(pieces) + "\n\n[r]: r.png\n")  # fmt: skip


def places_of_html(text: str) -> list[Place]:
    return [place for place in in_tags(html_tree(text))[0] if place.spot]


def written(
    text: str, places: list[Place], alt: str, *, is_draft: bool = False, language: str = ""
) -> str:
    edits = [
        edit
        for place in places
        if place.spot
        for edit in place.spot.edits(text, alt, is_draft=is_draft, language=language)
    ]
    return apply(text, edits)


def masked(text: str) -> list[str]:
    """A page without its images' start tags."""
    return re.split(r"(?is)<(?:img|input|amp-img)\b(?:\"[^\"]*\"|'[^']*'|[^>])*>", text)


class TestHtml:
    @settings(max_examples=400, deadline=None, derandomize=True)
    @given(text=HTML, alt=TEXTS)
    def test_of_any_markup_only_the_alt_of_images_changes(self, text: str, alt: str) -> None:
        before = places_of_html(text)

        after = written(text, before, alt)

        now = places_of_html(after)
        assert [place.alt for place in now] == [alt] * len(before)
        for old, new in zip(before, now, strict=True):
            assert _but_alt(new) == _but_alt(old)
        edits = [
            place.spot.edits(text, alt, is_draft=False, language="")
            for place in before
            if place.spot
        ]
        outside = apply(text, [Edit(one.start, one.end, "") for [one] in edits])
        again = [
            place.spot.edits(after, alt, is_draft=False, language="") for place in now if place.spot
        ]
        assert apply(after, [Edit(one.start, one.end, "") for [one] in again]) == outside

    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(text=HTML, alt=TEXTS)
    def test_writing_twice_is_writing_once(self, text: str, alt: str) -> None:
        once = written(text, places_of_html(text), alt)

        assert written(once, places_of_html(once), alt) == once

    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(text=HTML, draft=TEXTS, alt=TEXTS)
    def test_an_accepted_text_leaves_no_trace_of_the_draft_before_it(
        self, text: str, draft: str, alt: str
    ) -> None:
        drafted = written(text, places_of_html(text), draft, is_draft=True, language="fr")

        accepted = written(drafted, places_of_html(drafted), alt)

        assert accepted == written(text, places_of_html(text), alt)


def _but_alt(place: Place) -> dict[str, str]:
    return {name: value for name, value in place.element.attributes.items() if name != "alt"}


class TestMarkdown:
    @settings(max_examples=400, deadline=None, derandomize=True)
    @given(text=MARKDOWN, alt=TEXTS)
    def test_of_any_markdown_only_the_texts_of_images_change(self, text: str, alt: str) -> None:
        before = markdown.read(text)
        said = " ".join(alt.split())

        after = markdown.read(written(text, list(before.places), alt))

        assert [place.source for place in after.places] == [p.source for p in before.places]
        for place in after.places:
            expected = alt if place.element.offset is None or "<" in _tag(place) else said
            assert (place.alt or "") in (expected, said)
        assert _other_text(after) == _other_text(before)

    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(text=MARKDOWN, alt=TEXTS.filter(str.strip))
    def test_an_accepted_text_leaves_no_trace_of_the_draft_before_it(
        self, text: str, alt: str
    ) -> None:
        places = list(markdown.read(text).places)
        drafted = written(text, places, "a draft", is_draft=True)

        accepted = written(drafted, list(markdown.read(drafted).places), alt)

        assert accepted == written(text, places, alt)


def _tag(place: Place) -> str:
    return place.element.name if type(place.spot).__name__ == "MarkdownSpot" else "<"


def _other_text(document: Document) -> tuple[str, list[str]]:
    return document.page.title, [remark.what for remark in document.remarks]


class TestBytes:
    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(data=st.binary(max_size=60), encoding=st.sampled_from(["", "cp1252", "utf-8", "gb2312"]))
    def test_any_bytes_come_back_as_they_were_or_the_page_is_refused(
        self, data: bytes, encoding: str
    ) -> None:
        page = (f'<meta charset="{encoding}">'.encode() if encoding else b"") + data

        try:
            text = PageText.of(page, "a.html")
        except IdefiqError:
            return

        assert text.bytes_of(text.text) == page

    @pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
    def test_line_ends_stay(self, newline: str, tmp_path: Path) -> None:
        page = tmp_path / "a.html"
        lines = ["<p>one", '<img src="https://example.org/a.png"', ' class="b">', "</p>"]
        page.write_bytes(newline.join(lines).encode())
        site = Site([files.named(str(page))])
        [place] = [finding.place for finding in site]
        text = PageText.of(page.read_bytes(), "a.html").text

        after = written(text, [place], "A text")

        assert after == newline.join([*lines[:2], ' class="b" alt="A text">', lines[3]])
        assert DraftOutcome("A text", is_draft=False).alt in after


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("<img src=a.png>", '<img src=a.png alt="x">'),
        ('<img src="a.png" />', '<img src="a.png" alt="x" />'),
        ("<img alt>", '<img alt="x">'),
        ("<img ALT = old>", '<img ALT = "x">'),
        ("<img alt=>", '<img alt="x">'),
        ("<img alt='old' src=a>", "<img alt='x' src=a>"),
        ("<img src=a/>", '<img src=a/ alt="x">'),
        ('<img\n  src="a"\n>', '<img\n  src="a" alt="x"\n>'),
        ("<img alt=b alt=c>", '<img alt="x" alt=c>'),
        ("<img data-alt=b>", '<img data-alt=b alt="x">'),
        ('<img title="alt=b">', '<img title="alt=b" alt="x">'),
        ("<img/alt=b/>", '<img/alt="x">'),
    ],
)
def test_an_attribute_is_found_as_browsers_find_it(tag: str, expected: str) -> None:
    assert apply(tag, [set_attributes(tag, 0, {"alt": "x"})]) == expected


def test_edits_that_overlap_are_refused() -> None:
    with pytest.raises(ValueError, match="overlap"):
        apply("abc", [Edit(0, 2, "x"), Edit(1, 3, "y")])


def test_a_place_without_a_tag_is_refused() -> None:
    with pytest.raises(ValueError, match="no start tag"):
        set_attributes("text", 0, {"alt": "x"})
