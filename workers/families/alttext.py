"""Alternative text with any family: draft, lint, one rewrite, and a long description.

    request ─▶ caption with a prompt for alternative text ─▶ family ─▶ draft ─▶ tidy ─▶ lint
        issues found ─▶ the same prompt with the issues ─▶ family ─▶ the better of both
        if requested ─▶ a detailed description

The linter is idefiq/alt/wording.py, the same that `idefiq alt lint` runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from db.vocabulary.errors import ItemError
from db.vocabulary.requests import alt_text_of
from db.vocabulary.texts import storable
from idefiq.alt.wording import Issue, lint, tidy
from workers.families.base import Answer, Family, Prepared

#: Name and version of the wordings below; a changed one is a new version.
TEMPLATE = "alt-text/1"
#: Confidence is divided by this for each issue that is an error.
CONFIDENCE_DIVISOR = 2.0

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
#: The issue of a link's image that a model without instructions describes.
_DESCRIBES = "the model describes the image: say where the link leads, or what the button does"
#: Ends the prompt of a model that continues text.
_CUE = "Alternative text:"


Images = Sequence[Image.Image]
#: Calls a function with an item's images, which are gone when it returns.
WithImages = Callable[[Callable[[Images], Prepared]], Prepared]


def prepare(family: Family, request: dict[str, Any], with_images: WithImages) -> Prepared:
    """Prepare an item of any kind; see Family.prepare.

    A request for alternative text becomes a caption whose answer is linted, and generated again if
    there are issues; see Prepared.follow_up. Its images are read again for that: to keep those of
    all items that are being answered would take more memory than the model.
    """
    alt_text = alt_text_of(request)
    if alt_text is None:
        return with_images(lambda images: family.prepare(request, images))
    return _AltTextRequest(family, request, alt_text, with_images).draft()


@dataclass(frozen=True, slots=True)
class _AltTextRequest:
    """A request for alternative text."""

    family: Family
    request: dict[str, Any]
    alt_text: dict[str, Any]
    with_images: WithImages

    def draft(self) -> Prepared:
        """Prepare the draft."""

        def first(images: Images) -> Prepared:
            if self._wants_detail:
                self._request_of(_IN_DETAIL, images)  # raises now if it does not fit
            return self._request_of(self._wording(), images)

        return replace(self.with_images(first), follow_up=self._lint_draft)

    def _lint_draft(self, answer: Answer) -> Answer | Prepared:
        first = self._judged(answer)
        found = self._issues(first.text)
        if not (found and self.alt_text["rewrite"] and self._is_instructed):
            return self._in_detail(first)
        try:
            again = self._ask(self._wording(first.text, found))
        except ItemError:  # the draft does not fit a prompt with its issues
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
        try:
            again = self._ask(_IN_DETAIL)
        except ItemError:  # its image was deleted since: the text is worth keeping all the same
            return answer
        return replace(again, follow_up=lambda long: self._with_description(answer, long))

    @staticmethod
    def _with_description(answer: Answer, long: Answer) -> Answer:
        text = tidy(storable(long.text), is_cut=long.finish_reason == "length")
        return replace(
            answer,
            alt_text={**(answer.alt_text or {}), "long_description": text},
            completion_tokens=answer.completion_tokens + long.completion_tokens,
        )

    def _ask(self, prompt: str) -> Prepared:
        return self.with_images(lambda images: self._request_of(prompt, images))

    def _request_of(self, prompt: str, images: Images) -> Prepared:
        inner = {k: self.request[k] for k in self.request.keys() - {"alt_text", "language"}}
        if self._is_instructed:
            inner["prompt"] = prompt
            if self._language and self._language == self.request.get("language"):
                inner["language"] = self._language
        return self.family.prepare(inner, images)

    def _wording(self, draft: str = "", faults: Sequence[Issue] = ()) -> str:
        return _wording(self.alt_text, draft, faults, cue=self.family.card.style == "plain")

    @property
    def _is_instructed(self) -> bool:
        return self.family.card.follows_instructions

    @property
    def _wants_detail(self) -> bool:
        return bool(self.alt_text["long_description"] and self._is_instructed)

    @property
    def _language(self) -> str | None:
        """Language of the answer: the requested one if the model has it, or the model's first."""
        wanted, known = self.request.get("language"), self.family.card.languages
        if wanted and self._is_instructed and (not known or wanted in known):
            return str(wanted)
        return known[0] if known else None

    def _issues(self, text: str) -> list[Issue]:
        asked = self.alt_text
        if asked["role"] == "functional" and not self._is_instructed:
            return [Issue("describes", _DESCRIBES)]
        near = [asked[name] for name in ("caption", "heading", "page_title") if asked.get(name)]
        if asked["role"] == "functional":
            near = []  # a link's text should name its destination
        return lint(text, near=near, target_length=asked["target_length"])

    def _judged(self, answer: Answer, *, is_rewritten: bool = False) -> Answer:
        text = tidy(answer.text, is_cut=answer.finish_reason == "length")
        found = self._issues(text)
        errors = sum(one.is_error for one in found)
        sure = 1.0 if answer.confidence is None else answer.confidence
        confidence = round(sure / CONFIDENCE_DIVISOR**errors, 4)
        issues = [{"code": one.code, "message": one.message} for one in found]
        record = {
            "issues": issues,
            "rewritten": is_rewritten,
            "confidence": confidence,
            "language": self._language,
            # What release 0.1 reads, with the names that it has for them.
            "objections": issues,
            "certainty": confidence,
        }
        return replace(answer, text=text, alt_text=record, template=f"{TEMPLATE} {answer.template}")


def _wording(asked: Mapping[str, Any], draft: str, faults: Sequence[Issue], *, cue: bool) -> str:
    """Prompt for a draft, or for a rewrite of an earlier draft with its issues."""
    parts = [words.format(asked[name].strip()) for name, words in _CONTEXT if asked.get(name)]
    task = _TASK_OF_FUNCTION if asked["role"] == "functional" else _TASK
    if asked["role"] == "functional" and asked.get("destination"):
        parts.append(f"It leads to, or does: {asked['destination'].strip()}.")
    parts.insert(0, task.format(target_length=asked["target_length"]))
    if faults:
        listed = "; ".join(fault.message for fault in faults)
        parts.append(_AGAIN.format(draft=draft, faults=listed))
    return " ".join([*parts, _CUE] if cue else parts)


def _faults(answer: Answer) -> int:
    return len((answer.alt_text or {}).get("issues", ()))
