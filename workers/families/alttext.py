"""Alternative text, by any family: a draft, a look at it, one more try, and a long description.

    request ─▶ a caption in words that ask for alternative text ─▶ family ─▶ draft
        draft ─▶ tidied ─▶ objections? ─▶ the same with the objections ─▶ family ─▶ the better one
        and, where it is asked for, a detailed description

The linter is idefiq/alt/wording.py, the same that `idefiq lint-alt` runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from db.errors import ItemError
from db.requests import alt_text_of
from idefiq.alt.wording import Objection, lint, tidy
from workers.families.base import Answer, Family, Prepared, storable

#: Name and version of the wordings below; a changed one is a new version.
TEMPLATE = "alt-text/1"
#: Certainty is divided by this for each objection that is an error.
DOUBT_PER_ERROR = 2.0

_CONTEXT = (
    ("page_title", "The page is called: {}."),
    ("heading", "The section is called: {}."),
    ("caption", "The caption below the image, which need not be repeated, is: {}."),
    ("surrounding", "The text around the image is: {}"),
)
_TASK = (
    "Write alternative text for this image on a web page, for people who cannot see it."
    " Say in one or two plain sentences what matters about the image here, in about {target_length}"
    " characters. Include important text that it shows. Do not begin with words such as image or"
    " picture, and say nothing that cannot be seen."
)
_TASK_OF_FUNCTION = (
    "This image is all that a link or a button shows. Write its alternative text: a few words that"
    " say where the link leads or what the button does."
)
_AGAIN = (
    "An earlier draft was: {draft} It has these faults: {faults}. Write a better one, and nothing"
    " but that."
)
_IN_DETAIL = (
    "Describe this image in detail for somebody who cannot see it: what is there, where, and any"
    " text or figures in it. Do not guess at what cannot be seen."
)
#: Said of what a model that follows no instructions makes of a link's picture.
_DESCRIBES = "the model describes the picture: say where the link leads, or what the button does"
#: Where a model continues a text, it is led to the place where the text would be.
_CUE = "Alternative text:"


def prepare(family: Family, request: dict[str, Any], images: Sequence[Image.Image]) -> Prepared:
    """Make an item ready, whatever it asks for; see Family.prepare.

    What asks for alternative text becomes a caption whose answer is looked at, and asked for again
    if there are objections; see Prepared.then.
    """
    said = alt_text_of(request)
    if said is None:
        return family.prepare(request, images)
    return _Asked(family, request, said, images).draft()


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request for alternative text."""

    family: Family
    request: dict[str, Any]
    said: dict[str, Any]
    images: Sequence[Image.Image]

    def draft(self) -> Prepared:
        """The first thing to ask."""
        if self._wants_detail:
            self._ask(_IN_DETAIL)  # so that what does not fit is told before anything is answered
        return replace(self._ask(self._wording()), follow_up=self._look_at_draft)

    def _look_at_draft(self, answer: Answer) -> Answer | Prepared:
        first = self._judged(answer)
        found = self._objections(first.text)
        if not (found and self.said["rewrite"] and self._is_instructed):
            return self._in_detail(first)
        try:
            again = self._ask(self._wording(first.text, found))
        except ItemError:  # it does not fit with its objections, and keeps its draft
            return self._in_detail(first)
        return replace(again, follow_up=lambda answer: self._better(first, answer))

    def _better(self, first: Answer, answer: Answer) -> Answer | Prepared:
        second = self._judged(answer, is_rewritten=True)
        better = second if _faults(second) < _faults(first) else first
        spent = first.completion_tokens + second.completion_tokens
        return self._in_detail(replace(better, completion_tokens=spent))

    def _in_detail(self, answer: Answer) -> Answer | Prepared:
        if not self._wants_detail:
            return answer
        return replace(self._ask(_IN_DETAIL), follow_up=lambda long: self._with(answer, long))

    @staticmethod
    def _with(answer: Answer, long: Answer) -> Answer:
        text = tidy(storable(long.text), is_cut=long.finish_reason == "length")
        return replace(
            answer,
            alt_text={**(answer.alt_text or {}), "long_description": text},
            completion_tokens=answer.completion_tokens + long.completion_tokens,
        )

    def _ask(self, prompt: str) -> Prepared:
        inner = {k: self.request[k] for k in self.request.keys() - {"alt_text", "language"}}
        if self._is_instructed:
            inner["prompt"] = prompt
            if self._language and self._language == self.request.get("language"):
                inner["language"] = self._language
        return self.family.prepare(inner, self.images)

    def _wording(self, draft: str = "", faults: Sequence[Objection] = ()) -> str:
        return _wording(self.said, draft, faults, cue=self.family.card.style == "plain")

    @property
    def _is_instructed(self) -> bool:
        return self.family.card.follows_instructions

    @property
    def _wants_detail(self) -> bool:
        return bool(self.said["long_description"] and self._is_instructed)

    @property
    def _language(self) -> str | None:
        """What the answer will be in: the language asked for, where the model has it."""
        wanted, known = self.request.get("language"), self.family.card.languages
        if wanted and self._is_instructed and (not known or wanted in known):
            return str(wanted)
        return known[0] if known else None

    def _objections(self, text: str) -> list[Objection]:
        said = self.said
        if said["role"] == "functional" and not self._is_instructed:
            return [Objection("describes", _DESCRIBES)]
        near = [said[name] for name in ("caption", "heading", "page_title") if said.get(name)]
        if said["role"] == "functional":
            near = []  # the name of where a link leads is what its text should be
        return lint(text, near=near, target_length=said["target_length"])

    def _judged(self, answer: Answer, *, is_rewritten: bool = False) -> Answer:
        text = tidy(answer.text, is_cut=answer.finish_reason == "length")
        found = self._objections(text)
        errors = sum(one.is_error for one in found)
        sure = 1.0 if answer.confidence is None else answer.confidence
        told = {
            "objections": [{"code": one.code, "message": one.message} for one in found],
            "rewritten": is_rewritten,
            "certainty": round(sure / DOUBT_PER_ERROR**errors, 4),
            "language": self._language,
        }
        return replace(answer, text=text, alt_text=told, template=f"{TEMPLATE} {answer.template}")


def _wording(said: Mapping[str, Any], draft: str, faults: Sequence[Objection], *, cue: bool) -> str:
    """What to ask, or, with an earlier draft and its faults, what to ask again."""
    parts = [words.format(said[name].strip()) for name, words in _CONTEXT if said.get(name)]
    task = _TASK_OF_FUNCTION if said["role"] == "functional" else _TASK
    if said["role"] == "functional" and said.get("destination"):
        parts.append(f"It leads to, or does: {said['destination'].strip()}.")
    parts.insert(0, task.format(target_length=said["target_length"]))
    if faults:
        listed = "; ".join(fault.message for fault in faults)
        parts.append(_AGAIN.format(draft=draft, faults=listed))
    return " ".join([*parts, _CUE] if cue else parts)


def _faults(answer: Answer) -> int:
    return len((answer.alt_text or {}).get("objections", ()))
