"""The pages are complete, their links lead somewhere, and their lines are short."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from api import errors as statuses
from db.vocabulary import errors
from docs.reference import DOCS, openapi

ROOT = DOCS.parent
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md")]
#: A call that makes an error with a code of its own.
ERROR_CALL = re.compile(
    r'(?:problem|envelope|error_body)\(\s*(?:[^()"]|\([^()]*\)|f?"[^"]*"(?=,\s*"))*?"([a-z_]+)"'
)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_or_heading_leads_there(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", page.read_text())  # samples of Markdown are no links
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_line_of_prose_is_longer_than_100_columns(page: Path) -> None:
    assert [line for line in prose(page) if len(line) > 100] == []


def prose(page: Path) -> Iterator[str]:
    """Lines of a page without tables, samples of code, and what `make docs` writes."""
    in_code = is_generated = False
    for line in page.read_text().splitlines():
        if "written by `make docs`" in line and line.startswith("<!--"):
            is_generated = "end of" not in line
        in_code ^= line.startswith("```")
        if not (in_code or is_generated or line.startswith(("|", "    "))):
            yield line


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_the_index_links_every_page() -> None:
    linked = set(re.findall(r"\]\(([\w-]+\.md)", (DOCS / "README.md").read_text()))

    assert linked == {page.name for page in DOCS.glob("*.md")} - {"README.md"}


def test_every_place_that_the_glossary_and_the_guide_for_contributors_name_exists() -> None:
    for page in ("glossary.md", "contributing.md", "engine.md"):
        text = (DOCS / page).read_text().replace("NAME.py", "chat.py")
        for place in re.findall(r"`((?:api|db|idefiq|tests|workers)/[\w/.]*)`", text):
            assert (ROOT / place).exists(), f"{page}: {place}"


def test_every_error_code_of_the_code_is_on_its_page() -> None:
    page = set(re.findall(r"^\| `(\w+)` \|", (DOCS / "errors.md").read_text(), re.MULTILINE))
    made = {"internal", *statuses.OTHER_CODES}
    for folder in ("api", "db", "workers"):
        for file in (ROOT / folder).rglob("*.py"):
            made |= set(ERROR_CALL.findall(file.read_text()))
            made |= set(re.findall(r'^    code = "(\w+)"$', file.read_text(), re.MULTILINE))
    made |= {f"batch_{code}" for code in ("expired", "cancelled")}

    assert {errors.RequestError.code, "timeout", "headers_too_large"} <= made
    assert made - page == set()


def test_no_code_is_shared_by_two_meanings() -> None:
    classes = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.IdefiqError)
    ]
    codes = [kind.code for kind in classes if "code" in vars(kind)]

    assert len(codes) == len(set(codes))
    assert set(codes) & (set(statuses.OTHER_CODES) - {"internal"}) == set()


def test_every_route_is_on_its_page() -> None:
    page = (DOCS / "api.md").read_text()

    for path, methods in openapi()["paths"].items():
        for method in methods:
            assert f"### `{method.upper()} {path}`" in page
