"""Template code in a page, which a generator replaces before a browser sees the page.

    {{ … }}  {% … %}  {# … #}      Liquid, Jinja, Handlebars, Go, Vue
    <?php … ?>  <% … %>            PHP, ERB, EJS
    :alt="…"  [alt]="…"  alt={…}   Vue, Angular, JSX, Svelte

An HTML parser takes code for markup, so where there is code outside a plain quoted value only
the template language knows where a tag ends. Such a tag is left to a person.
"""

import re
from bisect import bisect_left, bisect_right

from idefiq.alt.tags import attribute_spans, end_of_tag

#: A longer pair of braces is code only if no other one opens within: an opening that is never
#: closed must not cover a whole page.
_MAX_CHARACTERS = 5_000
_OPENING = re.compile(r"\{\{|\{%|\{#|<%|<\?(?!xml\b)(?:php\b|=)?", re.IGNORECASE)
_CLOSING = {"{{": "}}", "{%": "%}", "{#": "#}", "<%": "%>", "<?": "?>"}
#: In an attribute's value: code of any of these languages.
_MARKS = re.compile(
    r"\{\{|\{%|\{#|<%|<\?|<[A-Za-z!@]|\$\{|\$!\{|#\{|\[\[|\[%|@\("
    r"|@(?:Model|ViewBag|ViewData|Html|Url|item)\b|\{[$@#/:A-Za-z_][^{}\n]*\}"
    r"|\A\s*\$!?[A-Za-z_][\w.]*\s*\Z",
)
#: Attributes by which frameworks set `alt` when the page is made or shown, and those that only
#: sound like it.
_BOUND = re.compile(
    r"data-(?:v-bind|x-bind|bind|th|ng-attr|wp-bind-|amp-bind)[:-]alt(?:-title)?(?:\.\w+)*"
    r"|(?!alt$|alt-|data-|i18n-|aria:|#|@)(?:.*[^a-z])?alt(?:[^a-z].*)?"
)
#: Attributes that may set any attribute, and those that do if their value has a word.
_BINDS_ANY = re.compile(
    r"(?::|v-bind|x-bind)[:.]?(?:\[.*|prop|attr)?|(?:data-)?th[:-]attr(?:append|prepend)?"
    r"|t-att|tal:attributes|py:attrs|n:attr"
)
_BINDS_SOME = {"data-bind": "attr", "data-i18n": "[alt]"}
#: What no attribute's name has but that of code which an HTML parser has cut to pieces.
_NO_NAME = re.compile(
    r"[<>\"'`{}]|^(?!\[?\(.*\)\]?$).*\(|^#(?:if|else|elseif|end|foreach|set)\b"
    r"|^@(?:if|else\w*|end\w*|for\w*|while|switch|case|unless|isset|empty|auth|guest|php|class"
    r"|style|checked|selected|disabled|readonly|required)$"
)

IN_CODE = "it is written inside template code"
AROUND_CODE = "its tag holds template code outside a quoted value"


def makes(written: str) -> bool:
    """True if template code makes a text, as it is written on the page."""
    return bool(_MARKS.search(written))


def code_spans(text: str) -> list[tuple[int, int]]:
    """Find template code, in order. Takes time linear in the text, whatever it contains."""
    spans: list[tuple[int, int]] = []
    closings: dict[str, int] = {}
    at = 0
    while opening := _OPENING.search(text, at):
        start, at = opening.span()
        closing = _CLOSING[opening[0][:2]]
        if closings.get(closing, -1) < at:
            found = text.find(closing, at)
            closings[closing] = found if found >= 0 else len(text)
        end = closings[closing]
        if end == len(text):
            if opening[0][:2] != "<?" or len(opening[0]) == 2:
                continue  # never closed
        elif _is_too_long(closing, start, end) and text.find(opening[0], at, end) >= 0:
            continue
        at = min(end + len(closing), len(text))
        while closing == "}}" and text.startswith("}", at):  # of three
            at += 1
        spans.append((start, at))
    return spans


def _is_too_long(closing: str, start: int, end: int) -> bool:
    return closing[1] == "}" and end - start > _MAX_CHARACTERS


def _is_code(name: str, written: str) -> bool:
    """True if an attribute is or holds code outside a plain quoted value.

    Args:
        written: Its value with its quotes, empty if it has none.
    """
    if _NO_NAME.search(name) or _BINDS_ANY.fullmatch(name):
        return True
    if written[:1] in ("'", '"'):
        return written.count("{") != written.count("}")  # its own quotes have cut it
    return "{" in written or makes(written)


class TemplateCode:
    """The template code of a page.

    Args:
        text: The page.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._spans = code_spans(text)
        self._ends = [end for _, end in self._spans]

    @property
    def masked(self) -> str:
        """Return a text of the same length with letters in place of code."""
        pieces, reached = [], 0
        for start, end in self._spans:
            pieces += [self._text[reached:start], "x" * (end - start)]
            reached = end
        return "".join([*pieces, self._text[reached:]])

    def __bool__(self) -> bool:
        """True if there is any code."""
        return bool(self._spans)

    def holds(self, offset: int) -> bool:
        """True if a position is inside code."""
        after = bisect_left(self._ends, offset + 1)
        return after < len(self._spans) and self._spans[after][0] < offset

    def obstacle(self, offset: int) -> str:
        """Say why the start tag at an offset must not be changed; "" if it may be.

        Raises:
            ValueError: There is no start tag.
        """
        end = end_of_tag(self._text, offset)
        around = self._text[offset - 1 : offset], self._text[end : end + 1]
        is_quoted = offset > 0 and around[0] == around[1] and around[0] in "\"'`"
        if self.holds(offset) or is_quoted:
            return IN_CODE
        quoted: list[tuple[int, int]] = []
        for name, span in attribute_spans(self._text, offset):
            written = self._text[slice(*span)] if span else ""
            if _is_code(name, written):
                return AROUND_CODE
            if span and written[:1] in ("'", '"'):
                quoted.append(span)
        quoted.sort()
        for start, stop in self._within(offset, end):
            before = bisect_right(quoted, (start, 0)) - 1
            if before < 0 or not (quoted[before][0] < start and stop < quoted[before][1]):
                return AROUND_CODE
        return ""

    def makes_alt(self, offset: int) -> bool:
        """True if template code makes the `alt` of the start tag at an offset."""
        for name, span in attribute_spans(self._text, offset):
            written = self._text[slice(*span)].strip("\"'") if span else ""
            if _BOUND.fullmatch(name) or (name == "alt" and makes(written)):
                return True
            if name in _BINDS_SOME and _BINDS_SOME[name] in written:
                return True
        return False

    def _within(self, start: int, end: int) -> list[tuple[int, int]]:
        """The code that begins in a range."""
        first = bisect_left(self._spans, (start, 0))
        return self._spans[first : bisect_left(self._spans, (end, 0))]
