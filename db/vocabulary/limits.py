"""Weight and quotas of an owner."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OwnerLimits:
    """Weight and quotas of an owner; None uses the default of the settings.

    Attributes:
        weight: Share of the workers, beside those of others who want some.
    """

    weight: float = 1.0
    max_queued_items: int | None = None
    max_job_items: int | None = None
    max_stored_bytes: int | None = None
