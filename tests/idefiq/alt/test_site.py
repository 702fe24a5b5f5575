"""A site of every kind of page and image: what is found, what is written, and what stays."""

import subprocess
import zipfile
from pathlib import Path

import pytest

from idefiq.alt import files, report, write
from idefiq.alt.drafts import DraftOutcome, groups
from idefiq.alt.roles import ImageRole
from idefiq.alt.site import AltState, Site, SiteImage, SiteOptions
from idefiq.errors import IdefiqError
from tests.idefiq.alt import pages


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return pages.copy(tmp_path)


@pytest.fixture
def site(folder: Path) -> Site:
    return Site([files.named(str(folder))])


def texts(site: Site) -> dict[int, DraftOutcome]:
    """A text for everything that needs one, as if a person had accepted it."""
    return {
        index: DraftOutcome(
            "" if finding.state is AltState.EMPTY else f"Of {finding.key}", is_draft=False
        )
        for index, finding in enumerate(site.findings)
        if finding.state in (AltState.ASK, AltState.EMPTY)
    }


def images_of(site: Site, page: str) -> list[SiteImage]:
    return [finding for finding in site if finding.page == page]


class TestWhatIsFound:
    def test_every_image_has_the_role_the_state_and_the_problem_that_its_page_expects(
        self, site: Site
    ) -> None:
        told = [
            (finding.page, finding.line, finding.place.source, pages.expected(finding))
            for finding in site
        ]

        assert [(*one[:3], pages.found(f)) for one, f in zip(told, site, strict=True)] == told
        assert site.pages >= 30
        assert len(told) >= 100

    def test_only_images_that_a_browser_would_show_are_found(self, site: Site) -> None:
        sources = " ".join(finding.place.source for finding in site)

        for name in ("commented", "written", "typed", "none.png", "this.png", "not.png"):
            assert name not in sources

    def test_what_cannot_be_written_is_reported_with_the_reason(self, site: Site) -> None:
        notes = {(note.page, note.what) for note in site.notes}

        assert notes == {
            ("blog/hugo.md", '{{< figure src="/img/tram.png" title="The tram" >}}'),
            ("blog/hugo.md", "```{figure} /img/car.png"),
            ("blog/hugo.md", "![[vault.png]]"),
            ("css.html", "CSS background img/boat.png"),
            ("css.html", "CSS background img/tram.png"),
            ("css.html", "canvas"),
            ("css.html", "object img/logo.svg"),
            ("inline.html", "inline SVG"),
            ("links.html", "inline SVG"),
            ("style.css", "CSS background img/boat.png"),
        }
        assert all(note.reason for note in site.notes)

    def test_a_page_that_cannot_be_read_is_named_and_harms_no_other(self, site: Site) -> None:
        [unread] = site.unread

        assert unread.page == "broken.xhtml"
        assert "not well-formed XML" in unread.reason

    def test_an_image_outside_the_site_is_never_read(self, folder: Path) -> None:
        secret = folder.parent / "secret.png"
        secret.write_bytes(b"secret")
        page = folder / "thief.html"
        page.write_text('<img src="../secret.png"><img src="/../secret.png">')
        (folder / "img" / "link.png").symlink_to(secret)
        page.write_text(page.read_text() + '<img src="img/link.png">')

        found = Site([files.named(str(page))]).findings

        assert [one.state for one in found] == [AltState.PERSON] * 3
        assert all(one.picture is None for one in found)

    def test_unless_its_folder_is_named_as_a_root(self, folder: Path) -> None:
        (folder / "content").mkdir()
        page = folder / "content" / "a.md"
        page.write_text("![](/img/boat.png)")

        [alone] = Site([files.named(str(page))]).findings
        [rooted] = Site([files.named(str(page), [folder])]).findings

        assert (alone.state, rooted.state) == (AltState.PERSON, AltState.ASK)

    def test_with_force_a_person_s_text_is_asked_about_too(self, folder: Path) -> None:
        choices = SiteOptions(force=True)

        found = Site([files.named(str(folder / "named.html"))], choices).findings
        gull = images_of(Site([files.named(str(folder))], choices), "index.html")[2]

        assert [one.state for one in found] == [AltState.OK, AltState.OK, AltState.ASK]
        assert (gull.place.alt, gull.state) == ("A gull sits on a mooring post.", AltState.ASK)

    def test_empty_texts_can_be_asked_about_but_for_ornaments(self, folder: Path) -> None:
        found = Site([files.named(str(folder))], SiteOptions(describe_empty=True))

        states = {(finding.role, finding.state) for finding in found if finding.problem == "empty"}
        assert states == {
            (ImageRole.INFORMATIVE, AltState.ASK),
            (ImageRole.FUNCTIONAL, AltState.ASK),
            (ImageRole.DECORATIVE, AltState.OK),
        }


class TestContext:
    def test_the_prompt_has_the_text_around_an_image(self, site: Site) -> None:
        boat = images_of(site, "index.html")[1].context

        assert boat.as_alt_text() == {
            "page_title": "Harbour Museum",
            "heading": "Ships of the North",
            "surrounding": "Our newest model shows a fishing boat from 1910. It was built in two"
            " winters.",
        }
        assert boat.language == "en"

    def test_captions_headings_and_titles_are_found(self, site: Site) -> None:
        assert images_of(site, "figures.html")[0].context.caption == "The Ida, 1910"
        assert images_of(site, "visit.html")[1].context.heading == "By car"
        assert images_of(site, "docs/sphinx.html")[1].context.caption == "The tram."
        assert images_of(site, "docs/sphinx.html")[0].context.heading == "Installation"
        assert images_of(site, "blog/hugo.md")[0].context.page_title == "Spring fair"
        assert images_of(site, "docs/guide/deep.md")[0].context.heading == "Deep"
        wordpress = images_of(site, "blog/wordpress.html")[0].context
        assert wordpress.caption == "The Ida under sail"

    def test_the_context_of_a_link_has_the_title_of_its_target(self, site: Site) -> None:
        links = images_of(site, "links.html")

        assert links[0].context.destination == "Plan your visit (visit.html)"
        assert images_of(site, "index.html")[0].context.destination == "Harbour Museum (/)"
        assert links[10].context.destination == "Search"

    def test_languages_are_those_of_the_nearest_element(self, site: Site) -> None:
        assert [one.context.language for one in images_of(site, "languages.html")] == [
            "de-AT",
            "fr",
            "de-AT",
        ]
        assert images_of(site, "page.xhtml")[0].context.language == "en"
        assert images_of(site, "blog/hugo.md")[0].context.language == "de"


class TestKeys:
    def test_the_same_image_is_asked_about_once_unless_its_role_or_language_differs(
        self, site: Site
    ) -> None:
        boats = [f for f in site if f.state is AltState.ASK and f.place.source.endswith("boat.png")]

        keys = {(f.key, f.role, f.context.language) for f in boats}

        assert len({key for key, *_ in keys}) == len({(role, lang) for _, role, lang in keys})
        assert len(boats) > 3 * len(keys)

    def test_links_to_different_places_are_asked_about_separately(self, site: Site) -> None:
        maps = [
            f
            for f in images_of(site, "links.html")
            if f.state is AltState.ASK and "map" in f.place.source
        ]
        elsewhere = images_of(site, "docs/gfm.md")[4]

        assert len({f.key for f in maps}) == 1
        assert elsewhere.place.source == "../img/map.png"
        assert elsewhere.key != maps[0].key

    def test_keys_stay_when_the_site_is_moved_or_its_pages_grow(
        self, folder: Path, site: Site
    ) -> None:
        moved = folder.rename(folder.parent / "moved")
        page = moved / "index.html"
        page.write_text(page.read_text().replace("<main>", "<main><p>New.</p>"))

        assert set(groups(Site([files.named(str(moved))]))) == set(groups(site))


class TestWriting:
    def test_only_the_texts_change_and_all_of_them(self, folder: Path, site: Site) -> None:
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        wanted = texts(site)

        write.write(write.changes(site.findings, wanted))

        changed = {p.relative_to(folder).as_posix() for p in before if p.read_bytes() != before[p]}
        assert changed == {site.findings[index].page for index in wanted}
        again = Site([files.named(str(folder))])
        for index, outcome in wanted.items():
            finding = again.findings[index]
            assert (finding.place.alt or "") == outcome.alt, (finding.page, finding.line)
            assert finding.state is AltState.OK
        unwritten = [f for f in again.open if f.state is not AltState.PERSON]
        assert unwritten == []

    def test_the_patch_is_the_one_that_was_reviewed(self, folder: Path, site: Site) -> None:
        outcomes = {
            index: DraftOutcome("" if not outcome.alt else "A text: “new” & <good>", is_draft=False)
            for index, outcome in texts(site).items()
        }

        patch = write.patch(write.changes(site.findings, outcomes))

        assert patch == pages.PATCH.read_bytes()

    def test_git_applies_the_patch_to_the_same_pages_as_are_written(
        self, folder: Path, site: Site
    ) -> None:
        changed = write.changes(site.findings, texts(site))
        subprocess.run(["git", "init", "-q", "."], cwd=folder, check=True)

        said = subprocess.run(
            ["git", "apply", "--whitespace=nowarn", "-"],
            cwd=folder,
            input=write.patch(changed),
            capture_output=True,
        )

        assert said.returncode == 0, said.stderr.decode()
        for change in changed:
            assert (folder / change.page).read_bytes() == change.data

    def test_what_the_page_s_encoding_lacks_is_written_as_a_reference(self, folder: Path) -> None:
        found = Site([files.named(str(folder))])
        letter = images_of(found, "shop/newsletter.html")[1]
        index = found.findings.index(letter)

        write.write(
            write.changes(found.findings, {index: DraftOutcome("Jalapeño ☕ 5 €", is_draft=False)})
        )

        data = (folder / "shop" / "newsletter.html").read_bytes()
        assert 'alt="Jalapeño &#9749; 5 €"'.encode("cp1252") in data
        assert "Café “Ida” – 5 €".encode("cp1252") in data

    def test_bytes_that_are_no_text_stay_as_they_are(self, folder: Path) -> None:
        page = folder / "latin.html"
        page.write_bytes(b'<p>\xff\xfe caf\xe9 <img src="img/boat.png">\r\n')

        found = Site([files.named(str(page))])
        write.write(write.changes(found.findings, texts(found)))

        assert page.read_bytes().startswith(b'<p>\xff\xfe caf\xe9 <img src="img/boat.png" alt="Of ')
        assert page.read_bytes().endswith(b'">\r\n')

    def test_a_page_that_has_changed_meanwhile_is_left_alone(
        self, folder: Path, site: Site
    ) -> None:
        page = folder / "index.html"
        page.write_text("<p>All new</p>")

        with pytest.raises(IdefiqError, match=r"index\.html was changed meanwhile"):
            write.changes(site.findings, texts(site))

        assert page.read_text() == "<p>All new</p>"

    def test_modes_of_files_are_kept_and_nothing_else_is_left_behind(self, folder: Path) -> None:
        page = folder / "figures.html"
        page.chmod(0o640)
        before = sorted(folder.iterdir())
        found = Site([files.named(str(page))])

        write.write(write.changes(found.findings, texts(found)))

        assert page.stat().st_mode & 0o777 == 0o640
        assert sorted(folder.iterdir()) == before


class TestBooks:
    def test_an_epub_s_chapters_are_read_and_every_other_entry_keeps_its_bytes(
        self, tmp_path: Path
    ) -> None:
        book = pages.epub(tmp_path / "sea.epub")
        found = Site([files.named(str(book))])
        with zipfile.ZipFile(book) as packed:
            before = {info.filename: (packed.read(info), info) for info in packed.infolist()}

        assert [pages.found(one) for one in found] == [pages.expected(one) for one in found]
        assert found.findings[0].shown_page == "sea.epub/OEBPS/text/ch1.xhtml"
        assert found.findings[0].key == found.findings[2].key
        write.write(write.changes(found.findings, texts(found)))

        with zipfile.ZipFile(book) as packed:
            assert packed.testzip() is None
            assert packed.namelist() == list(before)
            for name, (data, info) in before.items():
                now = packed.getinfo(name)
                assert (now.compress_type, now.date_time) == (info.compress_type, info.date_time)
                said = packed.read(name)
                if name.endswith(".xhtml"):
                    key = found.findings[0].key.encode()
                    assert said == data.replace(
                        b'data-expect="informative ask missing"/',
                        b'data-expect="informative ask missing" alt="Of ' + key + b'"/',
                    )
                else:
                    assert said == data

    def test_an_epub_cannot_be_patched(self, tmp_path: Path) -> None:
        found = Site([files.named(str(pages.epub(tmp_path / "sea.epub")))])

        with pytest.raises(IdefiqError, match="cannot be patched"):
            write.patch(write.changes(found.findings, texts(found)))

    def test_what_is_no_epub_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "no.epub").write_bytes(b"no book")

        with pytest.raises(IdefiqError, match=r"no\.epub is no EPUB"):
            files.named(str(tmp_path / "no.epub"))


def test_a_source_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")

    for word, why in (
        ("nowhere", "does not exist"),
        ("", "does not exist"),
        ("a.txt", "is not a page"),
    ):
        with pytest.raises(IdefiqError, match=why):
            files.named(str(tmp_path / word) if word else "")


def test_hidden_folders_and_those_of_packages_are_left_alone(folder: Path) -> None:
    for name in (".git", "node_modules", "venv"):
        (folder / name).mkdir()
        (folder / name / "a.html").write_text("<img src=a.png>")

    assert not any("a.html" in finding.page for finding in Site([files.named(str(folder))]))


def test_a_cell_of_a_report_is_no_formula(folder: Path, site: Site) -> None:
    rows = [{"page": "=cmd()", "alt": "-1", "line": 3}]

    text = report.as_csv(("page", "alt", "line"), rows)

    assert text.splitlines()[1] == "'=cmd(),'-1,3"
    assert [report.fused(cell) for cell in text.splitlines()[1].split(",")[:2]] == ["=cmd()", "-1"]
