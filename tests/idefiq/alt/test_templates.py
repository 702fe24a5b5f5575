"""Pages with template code: what only a generator understands is never written."""

from pathlib import Path

import pytest

from idefiq.alt import code, files, write
from idefiq.alt.drafts import DraftOutcome
from idefiq.alt.site import AltState, Site, SiteOptions
from tests import pictures

PERSON = [
    # Code outside of a quoted value.
    '<img src="a.png" {% if alt %}alt="{{ alt }}"{% endif %}>',
    '<img src="a.png" {{#if alt}}alt="{{alt}}"{{/if}}>',
    '<img src="a.png" <?php if ($a) { echo \'class="wide"\'; } ?>>',
    '<img src="a.png" <%= tag.attributes(alt: name) %>>',
    '<img src="a.png" {{ with .Params.alt }}alt="{{ . }}"{{ end }}>',
    "<img src=a.png {{ attributes }}>",
    "<img src={{ logo }}>",
    "<img src=a.png alt={{ alt }}>",
    # Code whose own quotes end the value too early.
    '<img src="{{ "/img/a.png" | relative_url }}">',
    "<img src='<?= $page['image'] ?>'>",
    '<img src="{{ url_for("static", filename="a.png") }}" class="wide">',
    # Expressions of JSX and Svelte.
    '<img src="a.png" alt={name}>',
    '<img src="a.png" {alt}>',
    '<img src="a.png" {...props}>',
    "<img src={require('./a.png').default} />",
    '<img src="a.png" className={`wide ${theme}`} />',
    # Whatever sets any attribute.
    '<img src="a.png" v-bind="attributes">',
    '<img src="a.png" :[key]="name">',
    '<img src="a.png" v-bind.prop="attributes">',
    '<img src="a.png" th:attrappend="alt=${name}">',
    '<img src="a.png" th:attr="alt=${name}">',
    # Directives of FreeMarker, JSP, Blade, Razor and Velocity.
    '<img src="a.png" <#if alt??>alt="${alt}"</#if>>',
    '<img src="a.png" <c:if test="${a}">alt="x"</c:if>>',
    '<img src="a.png" @if($a > 1) alt="{{ $b }}" @endif>',
    '<img src="a.png" @class(["wide" => $wide])>',
    '<img src="a.png" #if($alt)alt="$alt"#end>',
    # Code whose own quotes make an image of another tag's attribute.
    """<div title="<%= t("x") %><img src='a.png'>"></div>""",
    """<div title="{% if a == "b" and n > 1 %}<img src='a.png'>{% endif %}"></div>""",
    '<img src="a.png" class="w {n ? "a>b" : ""}">',
    # Written by code, as text of another language.
    """{"<img src='a.png'>"}""",
    """<?php
if ($a > 1) { echo "<img src='a.png'>"; }""",
    "{{ '" + "x" * 6_000 + '<img src="a.png">\' }}',
    "{{ '<img src=\"a.png\">' | safe }}",
    "<?php echo implode(['<b>', '<img src=\"a.png\">']); ?>",
]
MADE = [
    '<img src="a.png" alt="{{ alt }}">',
    '<img src="a.png" alt="{{ alt_text }}">',
    '<img src="a.png" alt="{% if a %}x{% endif %}">',
    '<img src="a.png" alt="<%= image.alt %>">',
    '<img src="a.png" alt="<?php echo $alt; ?>">',
    '<img src="a.png" alt="${name}">',
    '<img src="a.png" alt="{name}">',
    '<img src="a.png" :alt="name">',
    '<img src="a.png" v-bind:alt="t(\'hero\')">',
    '<img src="a.png" [alt]="name">',
    '<img src="a.png" [attr.alt]="name">',
    '<img src="a.png" x-bind:alt="name">',
    '<img src="a.png" th:alt="#{name}">',
    '<img src="a.png" th:alt-title="#{name}">',
    '<img src="a.png" :alt.prop="name">',
    '<img src="a.png" data-ng-attr-alt="name">',
    '<img src="a.png" data-bind="attr: {alt: name}">',
    '<img src="a.png" alt="Photo of {name}">',
    '<img src="a.png" alt="{name}.png">',
    '<img src="a.png" alt.bind="name">',
    '<img src="a.png" bind-attr.alt="name">',
    '<img src="a.png" t-att-alt="name">',
    # Code elsewhere in the tag, and a text of the template behind it.
    """<img src="{% static "a.png" %}" alt="{% trans "x" %}">""",
    '<img src="a.png" data-i18n="[alt]logo">',
    '<img src="a.png" alt="$alt">',
    '<img src="a.png" alt="@Model.Name">',
]
ASKED = [
    '<img src="a.png" class="{{ wide }}">',
    '<img src="a.png" class="{% if wide %}wide{% endif %}" alt="image">',
    "<img src='a.png' title='<?= $title ?>'>",
    '<img src="a.png" @click="open" :class="{ wide: isWide }">',
    '<img src="a.png" (click)="open()" [class.wide]="wide" #hero>',
    '<img src="a.png" data-alt="x" alt-text="y" aria:alt="z">',
    '<img src="a.png" [style.width.%]="w" [(ngModel)]="x" @fade @click.prevent>',
    "<img src='a.png' data-bind='visible: shown' data-i18n='title'>",
    '{{ content }}<img src="a.png">{% include "x" %}',
    '<?xml version="1.0"?><html><img src="a.png" /></html>',
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(pictures.plain())
    return tmp_path


def read(folder: Path, text: str, name: str = "page.html", *, force: bool = False) -> Site:
    (folder / name).write_text(text, encoding="utf-8")
    return Site([files.named(str(folder / name))], SiteOptions(force=force))


def applied(folder: Path, site: Site, alt: str, name: str = "page.html") -> str:
    """The page after a text was accepted for every image, whatever its state."""
    outcomes = {index: DraftOutcome(alt, is_draft=False) for index in range(len(site.findings))}
    write.write(write.changes(site.findings, outcomes))
    return (folder / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("markup", PERSON)
def test_a_tag_with_code_outside_a_plain_quoted_value_needs_a_person_and_is_never_written(
    markup: str, folder: Path
) -> None:
    page = f"<html><body><p>{markup}</p></body></html>"
    for force in (False, True):
        site = read(folder, page, force=force)

        assert [finding.state for finding in site] == [AltState.PERSON] * len(site.findings)
        assert applied(folder, site, "New") == page


@pytest.mark.parametrize("markup", MADE)
def test_a_text_that_a_template_makes_is_right_and_is_never_overwritten(
    markup: str, folder: Path
) -> None:
    for force in (False, True):
        site = read(folder, markup, force=force)

        assert [(finding.state, finding.problem) for finding in site] == [(AltState.OK, "")]
        assert [finding.reason for finding in site] == ["a template makes its text"]
        assert applied(folder, site, "New") == markup


@pytest.mark.parametrize("markup", ASKED)
def test_code_in_quoted_values_and_around_a_tag_does_not_prevent_writing_its_text(
    markup: str, folder: Path
) -> None:
    site = read(folder, markup)

    assert [finding.state for finding in site] == [AltState.ASK]
    assert 'alt="New"' in applied(folder, site, "New")


@pytest.mark.parametrize(
    ("name", "page", "written"),
    [
        ("a.html", '<img src="a.png">', 'alt="&#123; &#123; x &#125; &#125; of &#123;%"'),
        ("a.md", "![](a.png)", "![&#123;&#123; x &#125;&#125; of &#123;%](a.png)"),
    ],
)
def test_braces_of_a_text_are_no_code_on_the_page(
    name: str, page: str, written: str, folder: Path
) -> None:
    site = read(folder, page, name)

    after = applied(folder, site, "{{ x }} of {%", name)
    assert written in after
    assert "{{" not in after
    assert "{%" not in after
    (folder / name).write_text(after, encoding="utf-8")
    [again] = read(folder, after, name).findings
    # Angular takes even references to two braces for code.
    assert again.place.alt == ("{ { x } } of {%" if name == "a.html" else "{{ x }} of {%")
    assert not again.place.is_made


@pytest.mark.parametrize("alt", ["A [[0, 1]] matrix", "$AAPL", "@Model T car", "a <% b"])
@pytest.mark.parametrize(
    ("name", "page"), [("a.html", '<img src="a.png">'), ("a.md", "![](a.png)")]
)
def test_a_draft_that_looks_like_code_is_written_as_text(
    alt: str, name: str, page: str, folder: Path
) -> None:
    site = read(folder, page, name)
    write.write(write.changes(site.findings, {0: DraftOutcome(alt, is_draft=True)}))

    after = (folder / name).read_text(encoding="utf-8")
    [drafted] = read(folder, after, name).findings
    accepted = applied(folder, read(folder, after, name), alt, name)
    [final] = read(folder, accepted, name).findings

    assert (drafted.problem, drafted.place.alt) == ("draft", alt)
    assert not final.place.is_draft
    assert final.place.alt == alt
    assert "<%" not in accepted


@pytest.mark.parametrize(
    ("markup", "state"),
    [
        ('<img src="{% static "a.png" %}" alt="The logo">', AltState.OK),
        ('<img src="{% static "a.png" %}" alt="">', AltState.OK),
        ('<img src="{% static "a.png" %}" alt="image">', AltState.PERSON),
        ('<img src="{% static "a.png" %}">', AltState.PERSON),
    ],
)
def test_a_text_beside_code_is_judged_like_any_other_and_never_written(
    markup: str, state: AltState, folder: Path
) -> None:
    site = read(folder, markup)

    assert [finding.state for finding in site] == [state]
    assert applied(folder, site, "New") == markup


def test_an_image_of_markdown_whose_url_is_code_is_reported(folder: Path) -> None:
    page = '![]({{ "/a.png" | relative_url }})\n\n![x]({% link a.png %})\n'

    site = read(folder, page, "a.md")

    assert [note.line for note in site.notes] == [1, 3]
    assert {note.reason for note in site.notes} == {"its address is code: write its text there"}


@pytest.mark.parametrize("page", ["![{{ alt }}](a.png)", "![{alt}](a.png)"])
def test_a_text_of_markdown_that_a_template_makes_is_left_alone(page: str, folder: Path) -> None:
    site = read(folder, page, "a.md", force=True)

    assert [finding.state for finding in site] == [AltState.OK]
    assert applied(folder, site, "New", "a.md") == page


def test_an_opening_that_is_never_closed_hides_nothing_behind_it(folder: Path) -> None:
    page = f"<p>{{{{ and {{% and <? and <%</p>{'<p>x</p>' * 1_000}<img src='a.png'>"

    assert [finding.state for finding in read(folder, page)] == [AltState.ASK]


@pytest.mark.parametrize("piece", ["{{", "{{ }", "<?", "{%", "{{ x }}"])
def test_a_page_full_of_openings_is_read_in_time_that_grows_with_its_length(piece: str) -> None:
    """Counted in steps of the search, not in seconds."""
    steps: list[int] = []
    for count in (2_000, 20_000):
        text = piece * count
        found = code.code_spans(text)
        steps.append(len(found))

    assert steps[1] in (0, 10 * steps[0])


def test_a_tag_with_thousands_of_attributes_is_scanned_once() -> None:
    tag = "<img " + " ".join(f'a{n}="{{{{ x }}}}"' for n in range(20_000)) + ">"

    assert code.TemplateCode(tag).obstacle(0) == ""
