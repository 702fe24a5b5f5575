"""Alternative text, by any family: a draft, a look at it, one more try, and a long description.

    request ─▶ a caption in words that ask for alternative text ─▶ family ─▶ draft
        draft ─▶ tidied ─▶ objections? ─▶ the same with the objections ─▶ family ─▶ the better one
        and, where it is asked for, a detailed description

The linter is idefiq/alt/wording.py, the same that `idefiq lint-alt` runs.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
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


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What the wrapped family has prepared, and what else may be asked of it."""

    draft: Prepared
    again: Callable[[str, Sequence[Objection]], Prepared] | None
    long: Prepared | None
    language: str | None
    is_instructed: bool


class AltText:
    """A family that answers requests for alternative text with another family's captions.

    Everything else it hands on.
    """

    def __init__(self, family: Family) -> None:
        self._family = family
        self.card = family.card

    def prepare(self, request: dict[str, Any], images: Sequence[Image.Image]) -> Prepared:
        """See Family.prepare."""
        said = alt_text_of(request)
        if said is None:
            return self._family.prepare(request, images)
        language = self._language(request)

        def asked(prompt: str) -> Prepared:
            inner = {key: request[key] for key in request.keys() - {"alt_text", "language"}}
            if self.card.follows_instructions:
                inner["prompt"] = prompt
                if language and language == request.get("language"):
                    inner["language"] = language
            return self._family.prepare(inner, images)

        wording = _wording(said, cue=self.card.style == "plain")
        draft = asked(wording())
        instructed = self.card.follows_instructions
        again = (lambda text, faults: asked(wording(text, faults))) if said["rewrite"] else None
        long = asked(_IN_DETAIL) if said["long_description"] and instructed else None
        return Prepared(
            request,
            tokens=max(one.tokens for one in (draft, long) if one),
            inputs=_Inputs(draft, again if instructed else None, long, language, instructed),
        )

    def generate(self, batch: Sequence[Prepared]) -> list[Answer]:
        """See Family.generate; of a batch, all items ask for alternative text, or none."""
        if "alt_text" not in batch[0].request:
            return self._family.generate(batch)
        inputs: list[_Inputs] = [item.inputs for item in batch]
        drafts = self._family.generate([one.draft for one in inputs])
        answers = [_judged(item, draft) for item, draft in zip(batch, drafts, strict=True)]
        self._rewrite(batch, answers)
        self._describe_in_detail(inputs, answers)
        return answers

    def _rewrite(self, batch: Sequence[Prepared], answers: list[Answer]) -> None:
        """Ask once more where there are objections, and keep what has fewer of them."""
        tries: list[tuple[int, Prepared]] = []
        for index, (item, answer) in enumerate(zip(batch, answers, strict=True)):
            found = _objections(item, answer.text)
            if found and item.inputs.again:
                # One that does not fit with its objections keeps its draft.
                with contextlib.suppress(ItemError):
                    tries.append((index, item.inputs.again(answer.text, found)))
        if not tries:
            return
        said = self._family.generate([prepared for _, prepared in tries])
        for (index, _), answer in zip(tries, said, strict=True):
            second = _judged(batch[index], answer, is_rewritten=True)
            first = answers[index]
            better = second if _faults(second) < _faults(first) else first
            spent = first.completion_tokens + second.completion_tokens
            answers[index] = replace(better, completion_tokens=spent)

    def _describe_in_detail(self, inputs: Sequence[_Inputs], answers: list[Answer]) -> None:
        wanted = [(index, one.long) for index, one in enumerate(inputs) if one.long]
        if not wanted:
            return
        said = self._family.generate([prepared for _, prepared in wanted])
        for (index, _), long in zip(wanted, said, strict=True):
            answer = answers[index]
            text = tidy(storable(long.text), is_cut=long.finish_reason == "length")
            answers[index] = replace(
                answer,
                alt_text={**(answer.alt_text or {}), "long_description": text},
                completion_tokens=answer.completion_tokens + long.completion_tokens,
            )

    def _language(self, request: Mapping[str, Any]) -> str | None:
        """What the answer will be in: the language asked for, where the model has it."""
        wanted, known = request.get("language"), self.card.languages
        if wanted and self.card.follows_instructions and (not known or wanted in known):
            return str(wanted)
        return known[0] if known else None


def _wording(said: Mapping[str, Any], *, cue: bool) -> Callable[..., str]:
    """What to ask; called with an earlier draft and its faults, what to ask again."""
    told = [words.format(said[name].strip()) for name, words in _CONTEXT if said.get(name)]
    task = _TASK_OF_FUNCTION if said["role"] == "functional" else _TASK
    if said["role"] == "functional" and said.get("destination"):
        told.append(f"It leads to, or does: {said['destination'].strip()}.")

    def wording(draft: str = "", faults: Sequence[Objection] = ()) -> str:
        parts = [task.format(target_length=said["target_length"]), *told]
        if faults:
            listed = "; ".join(fault.message for fault in faults)
            parts.append(_AGAIN.format(draft=draft, faults=listed))
        return " ".join([*parts, _CUE] if cue else parts)

    return wording


def _objections(item: Prepared, text: str) -> list[Objection]:
    said = alt_text_of(item.request) or {}
    if said["role"] == "functional" and not item.inputs.is_instructed:
        return [Objection("describes", _DESCRIBES)]
    near = [said[name] for name in ("caption", "heading", "page_title") if said.get(name)]
    if said["role"] == "functional":
        near = []  # the name of where a link leads is what its text should be
    return lint(text, near=near, target_length=said["target_length"])


def _judged(item: Prepared, answer: Answer, *, is_rewritten: bool = False) -> Answer:
    text = tidy(answer.text, is_cut=answer.finish_reason == "length")
    found = _objections(item, text)
    errors = sum(one.is_error for one in found)
    sure = 1.0 if answer.confidence is None else answer.confidence
    told = {
        "objections": [{"code": one.code, "message": one.message} for one in found],
        "rewritten": is_rewritten,
        "certainty": round(sure / DOUBT_PER_ERROR**errors, 4),
        "language": item.inputs.language,
    }
    return replace(answer, text=text, alt_text=told, template=f"{TEMPLATE} {answer.template}")


def _faults(answer: Answer) -> int:
    return len((answer.alt_text or {}).get("objections", ()))
