"""Pages as they are found: odd, broken, hostile, and written by people who must not be hurt."""

import base64
from pathlib import Path

import pytest

from idefiq.alt import drafts, files, write
from idefiq.alt.drafts import DraftOutcome
from idefiq.alt.roles import ImageRole
from idefiq.alt.site import AltState, Site, SiteImage
from idefiq.alt.wording import lint
from idefiq.errors import IdefiqError
from tests import pictures
from tests.idefiq.alt.test_drafts import review


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(pictures.plain())
    return tmp_path


def found(folder: Path, text: str | bytes, name: str = "a.html") -> list[SiteImage]:
    data = text if isinstance(text, bytes) else text.encode(errors="surrogateescape")
    (folder / name).write_bytes(data)
    return Site([files.named(str(folder / name))]).findings


def written(folder: Path, text: str | bytes, alt: str = "New", name: str = "a.html") -> bytes:
    """The page after a text was accepted for every image that needs one."""
    findings = found(folder, text, name)
    outcomes = {
        index: DraftOutcome(alt, is_draft=False)
        for index, finding in enumerate(findings)
        if finding.state is AltState.ASK
    }
    write.write(write.changes(findings, outcomes))
    return (folder / name).read_bytes()


@pytest.mark.parametrize(
    "page",
    [
        '<a href="http://["><img src="a.png"></a>',
        '<img src="//[">',
        '<img src="a%00.png">',
        f'<img src="{"a" * 5_000}">',
        '<img src="" srcset="a.png .x">',
        f'<img src="a.png" width="{"1" * 5_000}">',
        b'<html lang="\xe9"><img src="a.png">',
        b'<h1>\xff</h1><img src="a.png">',
        f"{'<div>' * 3_000}<img src='a.png'>",
        "<img src='a.png' alt='\0'>",
    ],
)
def test_no_page_however_odd_harms_another(page: str | bytes, folder: Path) -> None:
    data = page if isinstance(page, bytes) else page.encode()
    (folder / "odd.html").write_bytes(data)
    (folder / "good.html").write_text('<img src="a.png">')

    site = Site([files.named(str(folder))])
    report = [drafts.item_of("k", [one], "x", drafts.Asking()) for one in site]

    assert "good.html" in [one.page for one in site]
    assert str(report).encode()


class TestPeoplesTexts:
    @pytest.mark.parametrize(
        "text",
        [
            "Photo 2: my grandmother in 1950",
            "Image 3 of the king being crowned",
            "Scan 2 shows a fracture of the left femur",
            "X",
            "4006381333931",
            "IMG Arena",
        ],
    )
    def test_they_are_no_names_of_files_and_stay(self, text: str, folder: Path) -> None:
        [finding] = found(folder, f'<img src="a.png" alt="{text}">')
        [in_link] = found(folder, f'<a href="/x">More <img src="a.png" alt="{text}"></a>')

        assert (finding.state, in_link.state) == (AltState.OK, AltState.OK)

    def test_a_page_edited_meanwhile_is_left_alone(self, folder: Path) -> None:
        findings = found(folder, "![](a.png) one ![](a.png)", "a.md")
        (folder / "a.md").write_text("Somebody typed this before. ![](a.png) one ![](a.png)")

        with pytest.raises(IdefiqError, match="changed meanwhile"):
            write.changes(findings, {0: DraftOutcome("New", is_draft=False)})

    def test_white_space_is_no_text(self, folder: Path) -> None:
        states = [found(folder, f'<img src="a.png" alt="{alt}">')[0] for alt in (" ", "&nbsp;", "")]

        assert [(one.problem, one.state) for one in states] == [
            ("blank", AltState.ASK),
            ("blank", AltState.ASK),
            ("empty", AltState.OK),
        ]

    def test_a_language_that_its_author_wrote_stays(self, folder: Path) -> None:
        page = '<html lang="de"><img src="a.png" lang="fr" alt="Un carré" data-alt-draft="">'

        assert b'lang="fr"' in written(folder, page)


class TestMarkdown:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("![a ![](a.png) c](a.png)", "![a ![](a.png) c](a.png)"),
            ("![](a.png){: .center}", "![New](a.png){: .center}"),
            ("![](a.png){width=50%}<!--alt-draft-->", "![New](a.png){width=50%}"),
            ("<b>![](a.png)</b>", "<b>![New](a.png)</b>"),
            ("| a |\n|---|\n| ![](a.png) |", "| a |\n|---|\n| ![New](a.png) |"),
        ],
    )
    def test_what_stands_around_an_image_stays(
        self, text: str, expected: str, folder: Path
    ) -> None:
        assert written(folder, text, name="a.md").decode() == expected

    def test_a_mark_stands_after_the_attributes_of_its_image(self, folder: Path) -> None:
        findings = found(folder, "![](a.png){: .center}", "a.md")

        write.write(write.changes(findings, {0: DraftOutcome("", is_draft=False)}))

        assert (folder / "a.md").read_text() == "![](a.png){: .center}<!--decorative-->"
        assert found(folder, (folder / "a.md").read_text(), "a.md")[0].state is AltState.OK

    @pytest.mark.parametrize(
        ("text", "role"),
        [
            ('[<img src="a.png">](x.html)', ImageRole.FUNCTIONAL),
            ('[<img src="a.png"> Read the report](x.html)', ImageRole.DECORATIVE),
            ('# Boats\n\n- <img src="a.png">', ImageRole.INFORMATIVE),
        ],
    )
    def test_html_stands_in_the_links_of_markdown(
        self, text: str, role: ImageRole, folder: Path
    ) -> None:
        [finding] = found(folder, text, "a.md")

        assert finding.role is role
        assert finding.context.heading == ("Boats" if "Boats" in text else "")


class TestBytes:
    @pytest.mark.parametrize(
        ("page", "expected"),
        [
            (b"caf\xe9 <img src=a.png>", b'caf\xe9 <img src=a.png alt="N\xe9 &#9749;">'),
            (
                b'\xef\xbb\xbf<meta charset=iso-8859-1>caf\xc3\xa9 <img src="a.png">',
                b'\xef\xbb\xbf<meta charset=iso-8859-1>caf\xc3\xa9 <img src="a.png"'
                b' alt="N\xc3\xa9 \xe2\x98\x95">',
            ),
            (
                b"<img title=a\xc2\xa0alt=b src=a.png>",
                b'<img title=a\xc2\xa0alt=b src=a.png alt="N\xc3\xa9 \xe2\x98\x95">',
            ),
            (
                b'<img src="a.png"alt="TODO"data-alt-draft="">',
                'src="a.png"alt="Né ☕">'.encode().join([b"<img ", b""]),
            ),
        ],
    )
    def test_a_page_stays_in_the_encoding_that_browsers_read_it_in(
        self, page: bytes, expected: bytes, folder: Path
    ) -> None:
        assert written(folder, page, "Né ☕") == expected

    @pytest.mark.parametrize("encoding", ["utf-16", "iso2022_jp"])
    def test_encodings_that_cannot_be_changed_in_part_are_refused(
        self, encoding: str, folder: Path
    ) -> None:
        named = "iso-2022-jp" if encoding.startswith("iso") else encoding
        data = f'<meta charset="{named}">é日本<img src="a.png">'.replace("é", "").encode(encoding)
        (folder / "a.html").write_bytes(data)

        site = Site([files.named(str(folder))])

        assert "use UTF-8" in site.unread[0].reason

    def test_control_characters_of_a_model_are_not_written(self, folder: Path) -> None:
        [finding] = found(folder, '<img src="a.png">')
        said = review(finding.key, "accepted", "A\x07 bell\x1b[31m")

        assert drafts.outcomes([finding], [said], with_drafts=False)[0].alt == "A bell[31m"

    def test_an_image_of_an_entity_is_a_person_s(self, folder: Path) -> None:
        page = (
            '<?xml version="1.0"?><!DOCTYPE html [<!ENTITY e "<img src=\'a.png\'/>">]>'
            '<html xmlns="http://www.w3.org/1999/xhtml"><body>&e;<img src="a.png"/></body></html>'
        )

        assert [one.state for one in found(folder, page, "a.xhtml")] == [
            AltState.PERSON,
            AltState.ASK,
        ]


class TestKeys:
    def test_a_draft_keeps_its_key_when_it_is_written_with_its_language(self, folder: Path) -> None:
        findings = found(folder, '<html lang="de"><img src="a.png">')
        draft = DraftOutcome("A square", is_draft=True, language="en")

        write.write(write.changes(findings, {0: draft}))

        page = (folder / "a.html").read_text()
        assert page == (
            '<html lang="de"><img src="a.png" alt="A square" data-alt-draft="lang" lang="en">'
        )
        assert found(folder, page)[0].key == findings[0].key
        assert written(folder, page).decode() == '<html lang="de"><img src="a.png" alt="New">'

    def test_the_same_words_for_different_places_are_different(self, folder: Path) -> None:
        for name in ("one", "two"):
            (folder / name).mkdir()
            (folder / name / "index.html").write_text(
                '<a href="detail.php" title="More"><img src="/a.png"></a>'
            )
        (folder / "index.html").write_text('<a href="one/detail.php"><img src="a.png"></a>')

        one, two, same = (
            next(f for f in Site([files.named(str(folder))]) if f.page == page)
            for page in ("one/index.html", "two/index.html", "index.html")
        )

        assert one.key == same.key != two.key

    def test_a_decided_draft_counts_before_an_undecided_one(self, folder: Path) -> None:
        [finding] = found(folder, '<img src="a.png">')
        said = [review(finding.key, "accepted", "Mine"), review(finding.key, "unreviewed", "New")]

        outcomes = [
            drafts.outcomes([finding], some, with_drafts=True) for some in (said, said[::-1])
        ]

        assert outcomes == [{0: DraftOutcome("Mine", is_draft=False)}] * 2


class TestWhatIsHandedOver:
    @pytest.mark.parametrize("name", [".env", ".git/config", "notes.txt"])
    def test_only_images_are_listed(self, name: str, folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"secret")

        [finding] = found(folder, f'<img src="{name}">')

        assert (finding.state, finding.picture) == (AltState.PERSON, None)

    def test_a_page_that_is_a_link_to_elsewhere_is_not_read(
        self, folder: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        outside = tmp_path_factory.mktemp("outside") / "a.html"
        outside.write_text("<h1>secret</h1><img src=https://example.org/a.png>")
        (folder / "link.html").symlink_to(outside)

        assert Site([files.named(str(folder))]).findings == []

    @pytest.mark.parametrize(
        ("source", "url"),
        [
            ("https://example.org/a b.png", "https://example.org/a%20b.png"),
            ("https://example.org/ä.png", "https://example.org/ä.png"),
            (f"https://example.org/{'a' * 9_000}", None),
            ("https:///a.png", None),
        ],
    )
    def test_an_address_that_the_service_would_refuse_is_a_person_s(
        self, source: str, url: str | None, folder: Path
    ) -> None:
        [finding] = found(folder, f'<img src="{source}">')

        assert (finding.picture.url if finding.picture else None) == url

    def test_an_image_embedded_in_the_page_is_sent_too(self, folder: Path) -> None:
        inside = base64.b64encode(pictures.plain()).decode()

        [finding] = found(folder, f'<img src="data:image/png;base64,{inside}">')

        assert finding.picture
        assert finding.picture.read
        assert finding.picture.read() == pictures.plain()


def test_long_pages_are_read_to_their_end(folder: Path) -> None:
    # Squares of these lengths would take many minutes.
    image, text = '<img src="https://example.org/a.png">', " and so on" * 20
    pages = {
        "flat.html": (image + text) * 4_000,
        "link.html": "<a href=x>" + image * 4_000,
        "headings.html": f"<h2>x</h2>{image}" * 4_000,
        "deep.html": f"<div>{image}" * 400,
        "paragraphs.md": f"![](https://example.org/a.png){text}\n\n" * 2_000,
    }
    for name, page in pages.items():
        assert len(found(folder, page, name)) >= 400


def test_the_linter_comes_to_an_end_with_any_text() -> None:
    # Of a pattern that goes back, some of these would take hours.
    for text in (
        "0" * 20_000 + ".",
        "<a" * 40_000,
        "lazy" * 20_000 + "/",
        "a " * 4_000,
        "-" * 9_999,
    ):
        lint(text)
