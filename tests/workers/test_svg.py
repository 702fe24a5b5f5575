"""SVG: drawn by resvg, on white, if it is whole in itself; else refused with the reason."""

import base64
import contextlib
import random

import pytest
from PIL import Image

from db.images.known_images import OK
from db.vocabulary.errors import CheckDied, ImageTooLarge, ImageUnreadable
from tests import pictures
from workers import images, svg
from workers.intake.check import Checkers
from workers.settings import IntakeSettings

OWNER = 1
NAMESPACE = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
SQUARE = f'<svg {NAMESPACE} viewBox="0 0 40 20"><rect width="20" height="20" fill="red"/></svg>'
INSIDE = base64.b64encode(pictures.plain("blue")).decode()


def drawn(body: str, attributes: str = 'viewBox="0 0 40 20"') -> tuple[int, int]:
    return look(f"<svg {NAMESPACE} {attributes}>{body}</svg>").size


def look(text: str) -> Image.Image:
    assert svg.is_svg(text.encode())
    return images.decode(svg.rasterise(text.encode()))


def nested_uses(levels: int, each: int) -> str:
    """Symbols that use the one before several times."""
    made = '<rect id="s0" width="1" height="1"/>'
    for level in range(1, levels):
        used = f'<use xlink:href="#s{level - 1}"/>' * each
        made += f'<g id="s{level}">{used}</g>'
    return f'<defs>{made}</defs><use href="#s{levels - 1}"/>'


def nested_parts(kind: str, attribute: str, levels: int) -> str:
    """Patterns or masks whose rectangles each need the one before."""
    made = f'<{kind} id="p0" width="9" height="9"><rect width="9" height="9"/></{kind}>'
    for level in range(1, levels):
        needed = f'<rect {attribute}="url(#p{level - 1})" width="9" height="9"/>' * 10
        made += f'<{kind} id="p{level}" width="9" height="9">{needed}</{kind}>'
    return f'{made}<rect {attribute}="url(#p{levels - 1})" width="9" height="9"/>'


PHOTO = f'<image id="p" href="data:image/png;base64,{INSIDE}" width="9" height="9"/>'
BLUR = '<filter id="b"><feGaussianBlur stdDeviation="9"/></filter>'


class TestCost:
    @pytest.mark.parametrize(
        ("body", "what"),
        [
            (nested_uses(12, 10), "elements to draw"),
            (PHOTO + '<use href="#p"/>' * 300, "raster images"),
            (BLUR + '<rect filter="url(#b)" width="9" height="9"/>' * 300, "layers"),
            (BLUR + '<g style="filter:url(#b)"/>' * 300, "layers"),
            ("<style>rect{filter:url(#b)}</style>" + BLUR + "<rect/>" * 300, "layers"),
            (nested_parts("pattern", "fill", 4), "layers"),
            (nested_parts("mask", "mask", 6), "elements to draw"),
            ('<g opacity="0.5"><rect width="9" height="9"/></g>' * 1_100, "layers"),
            (
                f'<marker id="m">{"<rect/>" * 200}</marker>'
                f'<path marker-mid="url(#m)" d="M0 0{" L1 1" * 2_000}"/>',
                "elements to draw",
            ),
            (f"<style>{'.a{fill:red}' * 20_000}</style>", "rules of style sheets"),
            (
                f"<style>{'.a{fill:red}' * 9_000}</style>" + "<g/>" * 3_000,
                "comparisons of rules with elements",
            ),
        ],
    )
    def test_what_would_take_long_to_draw_is_counted_and_refused(
        self, body: str, what: str
    ) -> None:
        with pytest.raises(ImageTooLarge, match=what):
            drawn(body)

    @pytest.mark.parametrize(
        "body",
        [
            nested_uses(5, 8),
            PHOTO + '<use href="#p"/>' * 20,
            BLUR + '<rect filter="url(#b)" width="9" height="9"/>' * 5,
            f"<style>{'.a{fill:red}' * 500}</style>" + '<g class="a"/>' * 2_000,
            "<style>.a{fill:url(#g)} .b{clip-path:url(#c)}</style>" + '<g class="a b"/>' * 2_000,
            '<linearGradient id="g"/>' + '<rect fill="url(#g)" width="1" height="1"/>' * 2_000,
            '<g id="a"><use href="#a"/></g>',
            '<use href="#nowhere"/>',
        ],
    )
    def test_what_people_draw_is_drawn(self, body: str) -> None:
        assert drawn(f'{body}<rect width="20" height="20"/>') == (1024, 512)


class TestDrawing:
    def test_it_is_drawn_on_white_with_a_long_side_of_1024_pixels(self) -> None:
        picture = look(SQUARE)

        assert (picture.mode, picture.size) == ("RGB", (1024, 512))
        assert picture.getpixel((100, 100)) == (255, 0, 0)
        assert picture.getpixel((900, 100)) == (255, 255, 255)

    @pytest.mark.parametrize(
        ("attributes", "size"),
        [
            ('viewBox="0 0 20 40"', (512, 1024)),
            ('width="100mm" height="50mm"', (1024, 512)),
            ('width="100%" height="100%" viewBox="0 0 10 10"', (1024, 1024)),
            ('viewBox="-5,-5,10,20"', (512, 1024)),
        ],
    )
    def test_its_shape_is_its_own(self, attributes: str, size: tuple[int, int]) -> None:
        assert drawn("<rect/>", attributes) == size

    @pytest.mark.parametrize(
        "before",
        [
            '<?xml version="1.0" encoding="UTF-8"?>\n',
            "<!-- made by hand -->\n\n",
            "\ufeff",
            '<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/x.dtd">\n',
        ],
    )
    def test_it_may_begin_as_svgs_do(self, before: str) -> None:
        assert look(before + SQUARE).size == (1024, 512)

    @pytest.mark.parametrize(
        "body",
        [
            '<defs><rect id="a" width="5" height="5"/></defs><use href="#a"/>',
            '<linearGradient id="g"/><rect fill="url(#g)" width="5" height="5"/>',
            f'<image href="data:image/png;base64,{INSIDE}" width="8" height="6"/>',
            "<style>rect { fill: url( '#g' ) }</style><rect/>",
            '<a xlink:href="#top"><text>words</text></a>',
        ],
    )
    def test_it_may_refer_to_what_is_in_it(self, body: str) -> None:
        assert drawn(body) == (1024, 512)


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        "body",
        [
            '<image href="/etc/passwd"/>',
            '<image href="file:///etc/hostname"/>',
            '<image xlink:href="picture.png"/>',
            '<image href="http://127.0.0.1/x.png"/>',
            '<use href="other.svg#a"/>',
            '<feImage href="x.png"/>',
            '<image href=" &#104;ttp://127.0.0.1/x.png"/>',
            '<image href="data:image/svg+xml;base64,PHN2Zy8+"/>',
            '<image href="data:text/html,x"/>',
            "<style>@import 'x.css';</style>",
            "<style>rect { fill: url(http://127.0.0.1/x) }</style>",
            '<rect style="fill:url( &quot;x.svg#g&quot; )"/>',
            '<rect filter="url(x.svg#f)"/>',
        ],
    )
    def test_whatever_names_something_outside(self, body: str) -> None:
        with pytest.raises(ImageUnreadable, match="outside itself"):
            drawn(body)

    def test_entities_of_its_own(self) -> None:
        bomb = (
            '<!DOCTYPE svg [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'
            f"<svg {NAMESPACE}><text>&b;</text></svg>"
        )

        with pytest.raises(ImageUnreadable, match="entities"):
            svg.rasterise(bomb.encode())

    @pytest.mark.parametrize(
        "attributes", ['width="1" height="10000"', 'viewBox="0 0 1e9 1"', 'width="0" height="5"']
    )
    def test_a_shape_that_is_none(self, attributes: str) -> None:
        with pytest.raises((ImageTooLarge, ImageUnreadable)):
            drawn("<rect/>", attributes)

    def test_an_svg_of_too_many_bytes_is_rejected(self) -> None:
        with pytest.raises(ImageTooLarge, match="bytes"):
            drawn(" " * svg.MAX_BYTES)

    @pytest.mark.parametrize("text", ["<svg", "<svg><rect></svg>", f"{SQUARE}<svg/>", "<svg/>\0"])
    def test_what_is_broken(self, text: str) -> None:
        with pytest.raises(ImageUnreadable):
            svg.rasterise(text.encode())

    def test_a_web_page_with_an_svg_in_it_is_no_svg(self) -> None:
        assert not svg.is_svg(f"<html>{SQUARE}</html>".encode())

    def test_an_engine_never_draws_one(self) -> None:
        with pytest.raises(ImageUnreadable, match="not an image"):
            images.decode(SQUARE.encode())

    def test_numbers_are_read_to_an_end(self) -> None:
        with contextlib.suppress(ImageTooLarge, ImageUnreadable):
            drawn("<rect/>", f'width="{"1" * 200_000}" viewBox="{"1" * 200_000}"')


def test_recognizing_an_svg_ends_whatever_the_file_begins_with() -> None:
    # Of a pattern that goes back, each of these would take hours.
    for tail in (b"<!-- " * 3_000, b"<!----> " * 2_000, b" " * 16_000, b"<?xml " * 2_500):
        assert not svg.is_svg(tail)


def test_two_hundred_broken_images_kill_no_child_and_each_gets_a_check_result() -> None:
    rng = random.Random(5)
    checkers = Checkers(IntakeSettings(intake_children=1, check_seconds=20.0))
    codes = set()
    try:
        for _ in range(200):
            broken = bytearray(SQUARE.encode())
            for _ in range(rng.randint(1, 6)):
                at = rng.randrange(len(broken))
                broken[at : at + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
            made = checkers.draw(OWNER, bytes(broken))
            codes.add(OK if isinstance(made, bytes) else made.code)
        good = checkers.draw(OWNER, SQUARE.encode())
    finally:
        checkers.close()

    assert codes <= {OK, "image_unreadable", "image_too_large"}
    assert isinstance(good, bytes)
    assert images.decode(good).size == (1024, 512)


def test_an_svg_nested_too_deep_harms_its_child_process_only() -> None:
    within = '<g opacity=".5">' * 2_000 + "</g>" * 2_000
    deep = f'<svg {NAMESPACE} viewBox="0 0 9 9">{within}</svg>'
    checkers = Checkers(IntakeSettings(intake_children=1, check_seconds=20.0))
    try:
        with contextlib.suppress(CheckDied):
            checkers.draw(OWNER, deep.encode())
        good = checkers.draw(OWNER, SQUARE.encode())
    finally:
        checkers.close()

    assert isinstance(good, bytes)
