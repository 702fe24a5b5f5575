"""The site of the tests: its pages lie beside this, its pictures are drawn.

Every image of a page says what is expected of it: "role state problem", in data-expect, or as
the title of an image of Markdown.
"""

import shutil
import zipfile
from pathlib import Path

from idefiq.alt.site import SiteImage
from tests import pictures

SITE = Path(__file__).parent / "site"
#: Golden: what writing a text for every image that needs one changes.
PATCH = Path(__file__).parent / "site.patch"
PICTURES = ("boat", "gull", "wave", "map", "tram", "car", "lens", "cart", "logo")
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 4"><rect width="4" height="4"/></svg>'


def copy(folder: Path) -> Path:
    """The site in a folder of its own, with its pictures, all different."""
    made = folder / "site"
    shutil.copytree(SITE, made)
    (made / "img").mkdir()
    for number, name in enumerate(PICTURES):
        (made / "img" / f"{name}.png").write_bytes(pictures.plain(size=(40, 20 + number)))
    (made / "img" / "logo.svg").write_text(SVG)
    (made / "img" / "spacer.gif").write_bytes(pictures.plain(size=(1, 1)))
    return made


def expected(finding: SiteImage) -> str:
    """What the page says of an image."""
    said = finding.place.element
    return said.get("data-expect") or said.get("title")


def found(finding: SiteImage) -> str:
    """The same of what was found."""
    return f"{finding.role} {finding.state} {finding.problem or '-'}"


def epub(path: Path) -> Path:
    """A book of two chapters."""
    chapter = (
        '<?xml version="1.0" encoding="utf-8"?>\r\n<!DOCTYPE html>\r\n'
        '<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops"'
        ' xml:lang="en"><head><title>Chapter {number}</title></head><body epub:type="bodymatter">'
        '<h1>Chapter {number}</h1><a id="p{number}"/>\r\n<p>The sea. <img src="../img/boat.png"'
        ' data-expect="informative ask missing"/></p><br/><img alt="" src="../img/wave.png"'
        ' data-expect="informative ok empty"/></body></html>\r\n'
    )
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(zipfile.ZipInfo("mimetype"), "application/epub+zip")
        container = zipfile.ZipInfo("META-INF/container.xml", (2020, 2, 2, 2, 2, 2))
        packed.writestr(container, "<container/>", zipfile.ZIP_DEFLATED)
        for number in (1, 2):
            name = f"OEBPS/text/ch{number}.xhtml"
            packed.writestr(name, chapter.format(number=number), zipfile.ZIP_DEFLATED)
        packed.writestr("OEBPS/img/boat.png", pictures.plain(), zipfile.ZIP_STORED)
        packed.writestr("OEBPS/img/wave.png", pictures.plain("blue"))
    return path
