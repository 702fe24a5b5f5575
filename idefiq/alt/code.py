"""Template code in a page: what a generator replaces before a browser sees the page.

    {{ … }}  {% … %}  {# … #}      Liquid, Jinja, Handlebars, Go, Vue
    <?php … ?>  <% … %>            PHP, ERB, EJS
    :alt="…"  [alt]="…"  alt={…}   Vue, Angular, JSX, Svelte

An HTML parser takes code for markup, so where there is code outside a plain quoted value nobody
but the template language knows where a tag ends. Such a tag is left to a person.
"""

import re
from bisect import bisect_left, bisect_right

from idefiq.alt.tags import attribute_spans, end_of_tag

#: Longer code is not looked for: an opening that is never closed must not cover a whole page.
_LONGEST = 5_000
_OPENING = re.compile(r"\{\{|\{%|\{#|<%|<\?(?!xml\b)", re.IGNORECASE)
_CLOSING = {"{{": "}}", "{%": "%}", "{#": "#}", "<%": "%>", "<?": "?>"}
#: In an attribute's value: code of any of these languages, or a value that is all code (Svelte,
#: Velocity, Razor).
_MARKS = re.compile(
    r"\{\{|\{%|\{#|<%|<\?|\$\{|\$!\{|#\{|\[\[|@\(|@(?:Model|ViewBag|ViewData|Html|Url|item)\b"
    r"|\A\s*\{.*\}\s*\Z|\A\s*\$!?[A-Za-z_][\w.]*\s*\Z",
    re.DOTALL,
)
#: Attributes by which frameworks set `alt` when the page is made or shown.
_BOUND = re.compile(
    r"(?:data-)?(?:v-bind|x-bind|bind|th|ng-attr)?[:-]alt(?:-title)?(?:\.\w+)*|\[(?:attr\.)?alt\]"
)
#: Attributes that may set any attribute, and words in their values by which they do.
_BINDS_ANY = {
    "v-bind": "",
    "x-bind": "",
    "th:attr": "",
    "data-th-attr": "",
    "data-bind": "attr",
    "data-i18n": "[alt]",
}
#: What no attribute's name has but that of code which an HTML parser has cut to pieces.
_NO_NAME = re.compile(r"[<>\"'`{}$%?]|\(.*[^)]$|^[^(\[]+\(|^#(?:if|else|elseif|end|foreach|set)\b")

IN_CODE = "it is written inside template code"
AROUND_CODE = "its tag holds template code outside a quoted value"


def makes(written: str) -> bool:
    """Whether a text, as it is written on the page, is made by template code."""
    return bool(_MARKS.search(written))


def _code_spans(text: str) -> list[tuple[int, int]]:
    """Where code is, in order. Takes time in proportion to the text, whatever is in it."""
    spans: list[tuple[int, int]] = []
    closings: dict[str, int] = {}
    at = 0
    while opening := _OPENING.search(text, at):
        start, at = opening.span()
        closing = _CLOSING[opening[0]]
        if closings.get(closing, -1) < at:
            found = text.find(closing, at)
            closings[closing] = found if found >= 0 else len(text) + _LONGEST
        if closings[closing] - start > _LONGEST:
            continue
        at = closings[closing] + len(closing)
        while closing == "}}" and text.startswith("}", at):  # of three
            at += 1
        spans.append((start, at))
    return spans


class Code:
    """The template code of a page.

    Args:
        text: The page.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._spans = _code_spans(text)
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
        quoted: list[tuple[int, int]] = []
        for name, span in attribute_spans(self._text, offset):
            written = self._text[slice(*span)] if span else ""
            is_quoted = written[:1] in ("'", '"')
            is_directive = name.startswith("@") and span is None
            if _NO_NAME.search(name) or is_directive or _BINDS_ANY.get(name) == "":
                return AROUND_CODE
            if span and not is_quoted and (_MARKS.search(written) or "{" in written):
                return AROUND_CODE
            if span and is_quoted:
                quoted.append(span)
        quoted.sort()
        for start, stop in self._within(offset, end_of_tag(self._text, offset)):
            before = bisect_right(quoted, (start, 0)) - 1
            if before < 0 or not (quoted[before][0] < start and stop < quoted[before][1]):
                return AROUND_CODE
        return ""

    def makes_alt(self, offset: int) -> bool:
        """Whether template code makes the `alt` of the start tag at an offset."""
        for name, span in attribute_spans(self._text, offset):
            written = self._text[slice(*span)].strip("\"'") if span else ""
            sets = _BINDS_ANY.get(name)
            if _BOUND.fullmatch(name) or (sets and sets in written):
                return True
            if name == "alt" and makes(written):
                return True
        return False

    def _within(self, start: int, end: int) -> list[tuple[int, int]]:
        """The code that begins in a range."""
        first = bisect_left(self._spans, (start, 0))
        return self._spans[first : bisect_left(self._spans, (end, 0))]
