"""The queue of all owners, as the service answers it."""

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class QueuedModel:
    """One model: what waits for it, who serves it, and what it has done today (in UTC).

    Attributes:
        engines: Live engines.
        paused: Items of paused jobs.
        oldest_due_seconds: Time for which the oldest due item has waited.
        items: Answered today.
        device_seconds: Time on the device today, of all engines together.
    """

    model: str
    engines: int
    queued: int
    running: int
    paused: int
    oldest_due_seconds: float
    items: int
    failed: int
    cached: int
    images: int
    prompt_tokens: int
    completion_tokens: int
    device_seconds: float


@dataclass(frozen=True, slots=True)
class Queue:
    """The queue at one moment.

    Attributes:
        intakes: Live intake workers.
        jobs: Unfinished jobs by state.
        owners: Unfinished items of the ten owners who have the most.
        webhook_deliveries: Deliveries that wait.
    """

    models: list[QueuedModel]
    intakes: int
    jobs: dict[str, int]
    owners: dict[str, int]
    webhook_deliveries: int

    @classmethod
    def of(cls, body: dict[str, Any]) -> "Queue":
        """Build from the service's JSON."""
        names = [field.name for field in fields(QueuedModel)]
        return cls(
            models=[QueuedModel(**{name: one[name] for name in names}) for one in body["models"]],
            intakes=body["intakes"],
            jobs=body["jobs"],
            owners={one["owner"]: one["items"] for one in body["owners"]},
            webhook_deliveries=body["webhook_deliveries"],
        )
