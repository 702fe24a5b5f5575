"""Usage as the service answers it, as frozen dataclasses."""

from dataclasses import dataclass, fields
from datetime import date
from typing import Any


@dataclass(frozen=True, slots=True)
class DayUsage:
    """What an owner has used of a model on a day (in UTC), or had stored: then `model` is empty.

    Attributes:
        items: Answered items, those of the answer cache included.
        cached: Items that were answered from the answer cache; their tokens do not count.
        device_seconds: Time on the device; items side by side share it.
        cost: By the prices of the service; None if it has none.
        stored_bytes: Bytes of images and files, as counted last on that day.
    """

    day: date
    owner: str
    model: str
    items: int
    failed: int
    cached: int
    images: int
    prompt_tokens: int
    completion_tokens: int
    device_seconds: float
    cost: float | None
    stored_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Usage by day, and the currency of its costs."""

    days: list[DayUsage]
    currency: str

    @classmethod
    def of(cls, body: dict[str, Any]) -> "Usage":
        """Build from the service's JSON."""
        names = [field.name for field in fields(DayUsage)]
        days = [
            DayUsage(
                **{n: row[n] for n in names if n in row} | {"day": date.fromisoformat(row["day"])}
            )
            for row in body["data"]
        ]
        return cls(days, body["currency"])
