"""What a manifest says of an image and of a chunk of them."""

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
        text: Where its text file is, if it has one.
        before: What others wrote there, when this run last looked.
        digests: Of what this run has written there.
    """

    number: int
    key: str
    location: Location
    columns: dict[str, Any]
    text: str | None
    before: str | None
    digests: str
    state: str
    answer: dict[str, Any] | None
    error: str | None
    code: str | None

    @property
    def said(self) -> str | None:
        """The answer: a label if one was asked for, None if it is none of those."""
        if self.answer is None:
            return None
        said: str | None = self.answer["label" if "label" in self.answer else "text"]
        return said


@dataclass(frozen=True, slots=True)
class Chunk:
    """Images that are one job; or a bucket, which is one job too.

    Attributes:
        said: What its submission says besides the items.
    """

    number: int
    key: str
    source: str | None
    said: dict[str, Any]
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
    """State, answer, error and code; a label that is none of those asked for is a failure."""
    answer = json.dumps(result.detail, ensure_ascii=False) if result.detail else None
    if result.detail is None:
        return "failed", None, result.error or result.state, result.error_code or result.state
    if "label" in result.detail and result.label is None:
        said = result.detail["text"]
        return "failed", answer, f"the answer names none of the labels: {said!r}", "no_label"
    return "done", answer, None, None
