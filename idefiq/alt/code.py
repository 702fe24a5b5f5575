"""Template code in a page: what a generator replaces before a browser sees the page.

    {{ … }}  {% … %}  {# … #}      Liquid, Jinja, Handlebars, Go, Vue
    <?php … ?>  <% … %>            PHP, ERB, EJS
    :alt="…"  [alt]="…"  alt={…}   Vue, Angular, JSX, Svelte

An HTML parser takes code for markup, so where there is code outside a plain quoted value nobody
but the template language knows where a tag ends. Such a tag is left to a person.
"""

import re
from bisect import bisect_left

from idefiq.alt.tags import attribute_spans, end_of_tag

#: Longer code is not looked for: an opening that is never closed must not cover a whole page.
_LONGEST = 5_000
_CODE = re.compile(
    rf"\{{\{{.{{0,{_LONGEST}}}?\}}\}}+|\{{%.{{0,{_LONGEST}}}?%\}}|\{{#.{{0,{_LONGEST}}}?#\}}"
    rf"|<%.{{0,{_LONGEST}}}?%>|<\?(?!xml).{{0,{_LONGEST}}}?\?>",
    re.DOTALL | re.IGNORECASE,
)
#: In an attribute's value: code of any of these languages, or a value that is all code (Svelte).
_MARKS = re.compile(r"\{\{|\{%|\{#|<%|<\?|\$\{|#\{|\[\[|\A\s*\{.*\}\s*\Z", re.DOTALL)
#: Attributes by which frameworks set `alt` when the page is made or shown.
_BOUND = re.compile(r"(?:v-bind|x-bind|bind|th|ng-attr|data-th)?[:-]alt|\[(?:attr\.)?alt\]")
#: Attributes that may set any attribute.
_BINDS_ALL = frozenset({"v-bind", "x-bind", "th:attr", "data-th-attr"})

IN_CODE = "it is written inside template code"
AROUND_CODE = "its tag holds template code outside a quoted value"


def makes(written: str) -> bool:
    """Whether a text, as it is written on the page, is made by template code."""
    return bool(_MARKS.search(written))


class Code:
    """The template code of a page.

    Args:
        text: The page.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._spans = [found.span() for found in _CODE.finditer(text)]
        self._ends = [end for _, end in self._spans]

    def holds(self, offset: int) -> bool:
        """Whether a position is inside code."""
        after = bisect_left(self._ends, offset + 1)
        return after < len(self._spans) and self._spans[after][0] < offset

    def obstacle(self, offset: int) -> str:
        """Why the start tag at an offset must not be changed; "" if it may be.

        Raises:
            ValueError: There is no start tag.
        """
        if self.holds(offset):
            return IN_CODE
        end = end_of_tag(self._text, offset)
        quoted: list[tuple[int, int]] = []
        for name, value in attribute_spans(self._text, offset):
            written = self._text[slice(*value)] if value else ""
            is_quoted = written[:1] in ("'", '"')
            if name in _BINDS_ALL or "{" in name or (not is_quoted and _MARKS.search(written)):
                return AROUND_CODE
            if value and not is_quoted and "{" in written:
                return AROUND_CODE
            if value and is_quoted:
                quoted.append(value)
        for start, stop in self._within(offset, end):
            if not any(first < start and stop < last for first, last in quoted):
                return AROUND_CODE
        return ""

    def makes_alt(self, offset: int) -> bool:
        """Whether template code makes the `alt` of the start tag at an offset."""
        for name, value in attribute_spans(self._text, offset):
            if _BOUND.fullmatch(name):
                return True
            if name == "alt" and value and makes(self._text[slice(*value)].strip("\"'")):
                return True
        return False

    def _within(self, start: int, end: int) -> list[tuple[int, int]]:
        """The code that begins in a range."""
        first = bisect_left(self._spans, (start, 0))
        return self._spans[first : bisect_left(self._spans, (end, 0))]
