"""An item as its owner sees it, and its JSON."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from db.vocabulary.lines import json_line


@dataclass(frozen=True, slots=True)
class Item:
    """An item as its owner sees it.

    Attributes:
        images: References as intake has read them, or as they were submitted.
        request: Of an item that is looked at by itself; pages have room for answers alone.
    """

    ordinal: int
    custom_id: str | None
    state: str
    stage: str
    images: list[str] | None
    answer: dict[str, Any] | None
    error_code: str | None
    error_message: str | None
    finished_at: datetime | None
    result_number: int | None
    request: dict[str, Any] | None = None

    def public(self) -> dict[str, Any]:
        """The JSON that owners get, in pages, streams and results files alike."""
        error = {"code": self.error_code, "message": self.error_message}
        return {
            "index": self.ordinal,
            "custom_id": self.custom_id,
            "state": self.state,
            "images": self.images or [],
            "answer": self.answer,
            "error": error if self.error_code else None,
            "finished_at": _shown(self.finished_at),
        }

    def line(self) -> bytes:
        """The same as one line of JSON."""
        return json_line(self.public()) + b"\n"


def _shown(at: datetime | None) -> str | None:
    return at.isoformat().replace("+00:00", "Z") if at else None
