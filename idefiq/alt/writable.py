"""Which places of a page may be written: not those that template code makes or surrounds."""

import re
from collections.abc import Mapping
from dataclasses import replace

from idefiq.alt.code import IN_CODE, TemplateCode, makes
from idefiq.alt.markdown import MarkdownSpot
from idefiq.alt.places import Place
from idefiq.alt.tags import attribute_spans


def checked(place: Place, text: str, code: TemplateCode, real: Mapping[int, Place] | None) -> Place:
    """Return the place, without its spot if it must not be written.

    That is where there is no such tag in the text, because an entity has brought it, and where
    template code makes the alternative or surrounds it.

    Args:
        real: The page's images with its code masked, by their offsets; None if it has no code.
    """
    if isinstance(place.spot, MarkdownSpot):
        if code.holds(place.offset) or code.holds(place.spot.mark_at):
            return replace(place, spot=None, obstacle=IN_CODE)
        is_made = place.is_made or makes(text[place.spot.start : place.spot.end])
        return replace(place, spot=None, is_made=True) if is_made and not place.is_draft else place
    tag = re.escape(place.element.name)
    in_page = re.match(
        rf"<(?:[\w-]+:)?(?:{tag}|image)\b", text[place.offset : place.offset + 80], re.IGNORECASE
    )
    if not in_page:
        return replace(place, spot=None)
    if real is not None and place.offset not in real:
        return replace(place, alt=None, spot=None, obstacle=IN_CODE)
    if obstacle := code.obstacle(place.offset):
        return _behind(obstacle, place, text, code, real or {})
    is_made = code.makes_alt(place.offset) and not place.is_draft
    return replace(place, spot=None, is_made=True) if is_made else place


def _behind(
    obstacle: str, place: Place, text: str, code: TemplateCode, real: Mapping[int, Place]
) -> Place:
    """Make a place unwritable, with the text that it has without any code, if any."""
    seen = real.get(place.offset)
    spans = dict(attribute_spans(code.masked, place.offset)) if seen else {}
    span = spans.get("alt")
    written = text[slice(*span)] if span else ""
    if seen is None or written[:1] not in ("'", '"') or obstacle == IN_CODE:
        return replace(place, alt=None, spot=None, obstacle=obstacle)
    is_made = makes(written[1:-1])
    return replace(place, alt=seen.alt, spot=None, obstacle=obstacle, is_made=is_made)
