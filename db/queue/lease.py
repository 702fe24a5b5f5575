"""What a worker holds: a claimed item, how it failed, and when it is tried again."""

from dataclasses import dataclass
from typing import Any

from db import tracing
from db.vocabulary.errors import IdefiqError, ItemError, StorageError
from db.vocabulary.requests import example_references, image_references
from db.vocabulary.states import SourceApi

#: Longest wait before a retry.
MAX_RETRY_SECONDS = 300.0
#: Once may be chance; an item that was rescued this often runs alone from then on.
SUSPECT_RESCUES = 2


@dataclass(frozen=True, slots=True)
class Lease:
    """A claimed item: its request, and the fencing token that proves the claim.

    Attributes:
        session_id: The session that holds it; see db/queue/sessions.py.
        claim_number: The fencing token: how often the item was claimed.
        attempts: Attempts charged so far, without this one.
        rescues: How often a worker died with the item in this stage; SUSPECT_RESCUES more after
            it hung the device together with others.
        hang_count: How often the watchdog ended a worker that ran the item alone.
        request: The effective request, see db/vocabulary/requests.py.
        images: `blob:` references after intake; None before.
        examples: `blob:` references of the images of its examples, or of its job's examples if it
            shares those; None until intake has stored them.
        shares_examples: True if its examples are those of its job.
        source_api: The API through which its job was submitted.
        waited_seconds: How long it was due before it was claimed.
        traceparent: W3C trace context of the request that submitted its job.
        pauses_on_issues: True if its job pauses itself above a share of answers with issues.
    """

    item_id: int
    session_id: str
    claim_number: int
    attempts: int
    rescues: int
    hang_count: int
    job_id: str
    owner_id: int
    model: str
    request: dict[str, Any]
    options_digest: str
    images: list[str] | None
    examples: list[str] | None = None
    shares_examples: bool = False
    source_api: SourceApi = SourceApi.JOB
    waited_seconds: float = 0.0
    traceparent: str | None = None
    pauses_on_issues: bool = False

    @property
    def ids(self) -> dict[str, Any]:
        """Ids for logs."""
        ids = {"job_id": self.job_id, "item_id": self.item_id}
        if self.traceparent:
            ids["trace_id"] = tracing.trace_id(self.traceparent)
        return ids

    @property
    def is_suspect(self) -> bool:
        """True if the item must run alone on the device: it may have crashed a worker."""
        return self.rescues >= SUSPECT_RESCUES or self.hang_count > 0

    @property
    def refusal(self) -> ItemError | None:
        """What was wrong with the item when it was submitted, if it was; see `refused`."""
        message = self.request.get("refused")
        return ItemError(message) if message else None

    @property
    def intake_references(self) -> list[str]:
        """References that intake must fetch: images, and examples that are not stored yet."""
        examples = example_references(self.request) if self.examples is None else []
        return [*image_references(self.request), *examples]

    @property
    def stored_references(self) -> list[str]:
        """References after intake: images, then images of examples."""
        images = self.images or []
        if (
            self.examples is None
        ):  # no examples, or a release before migration 0002 stored both together
            return images
        return [*images[: len(image_references(self.request))], *self.examples]


@dataclass(frozen=True, slots=True)
class Failure:
    """A lease, and the error that ends it."""

    lease: Lease
    error: IdefiqError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a retryable error is tried, and how long to wait before the first retry."""

    max_attempts: int
    first_wait_seconds: float

    def is_final(self, failure: Failure) -> bool:
        """True if an error ends its item, False if the item is tried again later."""
        exhausted = failure.lease.attempts + 1 >= self.max_attempts
        charged = not isinstance(failure.error, StorageError)
        return not failure.error.retryable or (charged and exhausted)

    def wait_seconds(self, attempts: int) -> float:
        """Wait before the next attempt, when `attempts` were charged before."""
        return min(self.first_wait_seconds * 2.0**attempts, MAX_RETRY_SECONDS)
