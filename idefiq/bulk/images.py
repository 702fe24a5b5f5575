"""Rows of a manifest: an image, and a chunk of images."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from idefiq.bulk.records import Location
from idefiq.types import Result


@dataclass(frozen=True, slots=True)
class Image:
    """A row of the manifest.

    Attributes:
        text_file: Path of its text file, if the run writes one.
        before: Text in that file that this run did not write, when it last looked.
        digests: Digests of what this run has written there.
    """

    number: int
    key: str
    location: Location
    columns: dict[str, Any]
    text_file: str | None
    before: str | None
    digests: str
    state: str
    answer: dict[str, Any] | None
    error: str | None
    code: str | None

    @property
    def answer_text(self) -> str | None:
        """The answer's text, or for `classify` its label; None if it names no label."""
        if self.answer is None:
            return None
        text: str | None = self.answer["label" if "label" in self.answer else "text"]
        return text


@dataclass(frozen=True, slots=True)
class Chunk:
    """The images of one job; or a bucket, which is one job too.

    Attributes:
        submission: Fields of its submission besides the items.
    """

    number: int
    key: str
    source: str | None
    submission: dict[str, Any]
    job_id: str | None
    cursor: str | None


COLUMNS = "number, key, location, columns, text, before, digests, state, answer, error, code"


def image_of(row: Sequence[Any]) -> Image:
    """Read a row of COLUMNS."""
    number, key, location, columns, text, before, digests, state, answer, error, code = row
    return Image(
        number,
        key,
        json.loads(location),
        json.loads(columns),
        json.loads(text) if text else None,
        before,
        digests,
        state,
        json.loads(answer) if answer else None,
        error,
        code,
    )


def outcome(result: Result) -> tuple[str, str | None, str | None, str | None]:
    """Return state, answer, error and code; a label that was not asked for is a failure."""
    answer = json.dumps(result.detail, ensure_ascii=False) if result.detail else None
    if result.detail is None:
        return "failed", None, result.error or result.state, result.error_code or result.state
    if "label" in result.detail and result.label is None:
        named = result.detail["text"]
        return (
            "failed",
            answer,
            f"the answer names none of the labels: {named!r}",
            "no_label",
        )
    return "done", answer, None, None
