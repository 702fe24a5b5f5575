"""The W3C's decision tree, branch by branch, and the pictures behind late sources."""

import pytest

from idefiq.alt.places import in_tags, source_of
from idefiq.alt.roles import Role, sort
from idefiq.alt.tree import html_tree


@pytest.mark.parametrize(
    ("markup", "role", "reason"),
    [
        ("<img src=a.png>", Role.INFORMATIVE, "part of the content"),
        ("<a href=x><img src=a.png></a>", Role.FUNCTIONAL, "all that a link shows"),
        ("<a href=x><b></b><img src=a.png> </a>", Role.FUNCTIONAL, "all that a link shows"),
        ("<a href=x><img src=a.png>Words</a>", Role.DECORATIVE, "says it in words"),
        ("<a href=x><img src=a.png><svg aria-label=Home></svg></a>", Role.DECORATIVE, "in words"),
        ("<a href=x aria-label=Home><img src=a.png></a>", Role.DECORATIVE, "has a label"),
        ("<a href=b.jpg><img src=a.png></a>", Role.INFORMATIVE, "in full"),
        ("<a href='B.JPG?x=1'><img src=a.png></a>", Role.INFORMATIVE, "in full"),
        ("<a><img src=a.png></a>", Role.INFORMATIVE, "content"),
        ("<button><img src=a.png></button>", Role.FUNCTIONAL, "all that a button shows"),
        ("<button><img src=a.png> Go</button>", Role.DECORATIVE, "its button says it"),
        ("<span role=link><img src=a.png></span>", Role.FUNCTIONAL, "link"),
        ("<input type=image src=a.png>", Role.FUNCTIONAL, "it is a button"),
        ("<img src=a.png role=presentation>", Role.DECORATIVE, "role=presentation"),
        ("<p aria-hidden=true><img src=a.png></p>", Role.DECORATIVE, "hidden"),
        ("<p aria-hidden=false><img src=a.png></p>", Role.INFORMATIVE, "content"),
        ("<img src=a.png width=1>", Role.DECORATIVE, "spacer"),
        ("<img src=a.png width=3 height=2px>", Role.DECORATIVE, "spacer"),
        ("<img src=a.png height=2px>", Role.INFORMATIVE, "content"),
        ("<amp-img src=a.png width=1 height=1 layout=fill>", Role.INFORMATIVE, "content"),
        ("<img src=a.png style='min-width:0px;border-width:1px'>", Role.INFORMATIVE, "content"),
        ("<a href=x><img src=a.png><i aria-hidden=true>go</i></a>", Role.FUNCTIONAL, "link"),
        ("<a href=x><img src=a.png> &rarr; </a>", Role.FUNCTIONAL, "link"),
        ("<img src=a.png width=100%>", Role.INFORMATIVE, "content"),
        ("<img src=img/spacer_2.gif>", Role.DECORATIVE, "ornament"),
        ("<img src=/a/bg-1.jpg>", Role.DECORATIVE, "ornament"),
        ("<img src=bulletin.png>", Role.INFORMATIVE, "content"),
        ("<a href=x><img src=spacer.gif></a>", Role.FUNCTIONAL, "link"),
    ],
)
def test_a_role_follows_from_the_markup_and_says_why(markup: str, role: Role, reason: str) -> None:
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
def test_a_picture_is_seen_through_what_loads_it_late(markup: str, source: str) -> None:
    image = next(one for one in html_tree(markup).walk() if one.name == "img")

    assert source_of(image) == source
