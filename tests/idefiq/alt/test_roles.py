"""The W3C's decision tree, branch by branch, and the pictures behind late sources."""

import pytest

from idefiq.alt.places import in_tags, source_of
from idefiq.alt.roles import ImageRole, sort
from idefiq.alt.tree import html_tree


@pytest.mark.parametrize(
    ("markup", "role", "reason"),
    [
        ("<img src=a.png>", ImageRole.INFORMATIVE, "part of the content"),
        ("<a href=x><img src=a.png></a>", ImageRole.FUNCTIONAL, "all that a link shows"),
        ("<a href=x><b></b><img src=a.png> </a>", ImageRole.FUNCTIONAL, "all that a link shows"),
        ("<a href=x><img src=a.png>Words</a>", ImageRole.DECORATIVE, "says it in words"),
        (
            "<a href=x><img src=a.png><svg aria-label=Home></svg></a>",
            ImageRole.DECORATIVE,
            "in words",
        ),
        ("<a href=x aria-label=Home><img src=a.png></a>", ImageRole.DECORATIVE, "has a label"),
        ("<a href=b.jpg><img src=a.png></a>", ImageRole.INFORMATIVE, "in full"),
        ("<a href='B.JPG?x=1'><img src=a.png></a>", ImageRole.INFORMATIVE, "in full"),
        ("<a><img src=a.png></a>", ImageRole.INFORMATIVE, "content"),
        ("<button><img src=a.png></button>", ImageRole.FUNCTIONAL, "all that a button shows"),
        ("<button><img src=a.png> Go</button>", ImageRole.DECORATIVE, "its button says it"),
        ("<span role=link><img src=a.png></span>", ImageRole.FUNCTIONAL, "link"),
        ("<input type=image src=a.png>", ImageRole.FUNCTIONAL, "it is a button"),
        ("<img src=a.png role=presentation>", ImageRole.DECORATIVE, "role=presentation"),
        ("<p aria-hidden=true><img src=a.png></p>", ImageRole.DECORATIVE, "hidden"),
        ("<p aria-hidden=false><img src=a.png></p>", ImageRole.INFORMATIVE, "content"),
        ("<img src=a.png width=1>", ImageRole.DECORATIVE, "spacer"),
        ("<img src=a.png width=3 height=2px>", ImageRole.DECORATIVE, "spacer"),
        ("<img src=a.png height=2px>", ImageRole.INFORMATIVE, "content"),
        ("<amp-img src=a.png width=1 height=1 layout=fill>", ImageRole.INFORMATIVE, "content"),
        (
            "<img src=a.png style='min-width:0px;border-width:1px'>",
            ImageRole.INFORMATIVE,
            "content",
        ),
        ("<a href=x><img src=a.png><i aria-hidden=true>go</i></a>", ImageRole.FUNCTIONAL, "link"),
        ("<a href=x><img src=a.png> &rarr; </a>", ImageRole.FUNCTIONAL, "link"),
        ("<img src=a.png width=100%>", ImageRole.INFORMATIVE, "content"),
        ("<img src=img/spacer_2.gif>", ImageRole.DECORATIVE, "ornament"),
        ("<img src=/a/bg-1.jpg>", ImageRole.DECORATIVE, "ornament"),
        ("<img src=bulletin.png>", ImageRole.INFORMATIVE, "content"),
        ("<a href=x><img src=spacer.gif></a>", ImageRole.FUNCTIONAL, "link"),
    ],
)
def test_a_role_follows_from_the_markup_and_has_a_reason(
    markup: str, role: ImageRole, reason: str
) -> None:
    [place] = in_tags(html_tree(markup))[0]

    found = sort(place.element, place.source)

    assert found.role is role
    assert reason in found.reason


@pytest.mark.parametrize(
    ("markup", "source"),
    [
        ("<img src=a.png data-src=b.png>", "a.png"),
        ("<img data-src=b.png>", "b.png"),
        ("<img src='' data-original=b.png>", "b.png"),
        ("<img src=data:image/gif;base64,AA data-lazy-src=b.png>", "b.png"),
        ("<img src=data:image/gif;base64,AA>", "data:image/gif;base64,AA"),
        ("<img src=blank.gif srcset='b.png 1x, c.png 2x'>", "c.png"),
        ("<img srcset='b.png 400w, c.png 1200w, d.png 9000w'>", "c.png"),
        ("<img srcset='b.png 8000w, c.png 9000w'>", "b.png"),
        ("<img srcset='https://x/w,h/b.png 1x'>", "https://x/w,h/b.png"),
        ("<picture><source srcset=b.avif><img src=a.png></picture>", "a.png"),
        ("<picture><source data-srcset=b.avif><img></picture>", "b.avif"),
        ("<img>", ""),
    ],
)
def test_a_lazily_loaded_image_is_found(markup: str, source: str) -> None:
    image = next(one for one in html_tree(markup).walk() if one.name == "img")

    assert source_of(image) == source
