"""What can go wrong, and what follows from it.

    RequestError   the caller can fix it     → HTTP 4xx, nothing stored
    ItemError      this input is at fault    → its item fails, neighbours are untouched
    EngineError    the batch or the device   → retried, bounded
    StorageError   database or store away    → retried, charged to nobody

`code` is on the wire and in the row and is never reused for something else. The HTTP status of
each lives in api/errors.py alone.
"""

from typing import ClassVar


class IdefiqError(Exception):
    """Base of all errors of this service; its message is one sentence for a user."""

    code: str = "internal"
    retryable: ClassVar[bool] = False


# ---- the caller can fix it ----------------------------------------------------------


class RequestError(IdefiqError):
    """The request cannot be accepted as it is."""

    code = "invalid_request"

    def __init__(self, message: str, *, field: str | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.line = line


class NotFound(RequestError):
    """It does not exist, or it is another owner's."""

    code = "not_found"


class UnknownModel(RequestError):
    """No worker has ever offered this model."""

    code = "unknown_model"


class UnsupportedKind(RequestError):
    """The model cannot do this kind of item."""

    code = "unsupported_kind"


class IdempotencyConflict(RequestError):
    """The Idempotency-Key was used before with another body."""

    code = "idempotency_conflict"


class Unauthorized(RequestError):
    """No API key, or one that is unknown, revoked or expired."""

    code = "unauthorized"


class Forbidden(RequestError):
    """This caller may not ask for it in this way."""

    code = "forbidden"


class WrongMediaType(RequestError):
    """The body's Content-Type is none of those that are understood here."""

    code = "wrong_media_type"


class TooLarge(RequestError):
    """More bytes than the limit allows."""

    code = "too_large"


class QuotaExceeded(RequestError):
    """As much as this owner may have is there already.

    Attributes:
        quota: Which one: queued-items or stored-bytes.
        most: What it allows.
        left: How much of it is left.
    """

    code = "quota_exceeded"

    def __init__(self, message: str, *, quota: str, most: int, left: int) -> None:
        super().__init__(message)
        self.quota, self.most, self.left = quota, most, left


class NotReady(RequestError):
    """It will be there, but is not yet."""

    code = "not_ready"


class ReviewConflict(RequestError):
    """Somebody else has decided since the caller looked."""

    code = "review_conflict"


class Unsupported(RequestError):
    """The service, as it is set up, cannot do this."""

    code = "unsupported"


# ---- this input is at fault ---------------------------------------------------------


class ItemError(IdefiqError):
    """The item can never be answered; it is not tried again."""

    code = "item_invalid"


class ImageUnreadable(ItemError):
    """The bytes are no image of an accepted format, or a broken one."""

    code = "image_unreadable"


class ImageTooLarge(ItemError):
    """More bytes, more pixels or a more extreme shape than the limits allow."""

    code = "image_too_large"


class ImageNotFound(ItemError):
    """The reference leads nowhere."""

    code = "image_not_found"


class ImageForbidden(ItemError):
    """The reference leads where this owner, or this service, may not read."""

    code = "image_forbidden"


class ImageMismatch(ItemError):
    """The stored bytes do not have the digest by which they are named."""

    code = "image_mismatch"


class PromptTooLong(ItemError):
    """Prompt and images together do not fit the model's context."""

    code = "prompt_too_long"


class ItemRefused(ItemError):
    """The model's own processor or chat template does not take such an item."""

    code = "item_refused"


class OutOfMemory(ItemError):
    """The item does not fit the device even alone."""

    code = "out_of_memory"


class Poison(ItemError):
    """Workers died or gave up, again and again, while they had the item."""

    code = "poison"


class ImagePoison(ItemError):
    """The process that checked the image died or ran out of time, twice."""

    code = "image_poison"


# ---- retried, bounded ---------------------------------------------------------------


class FetchFailed(IdefiqError):
    """The image's server is busy, slow or away."""

    code = "fetch_failed"
    retryable = True


class EngineError(IdefiqError):
    """A batch or the device failed; nothing is known against any single item."""

    code = "engine_error"
    retryable = True


class CheckDied(IdefiqError):
    """The process that checked an image died; once may be chance."""

    code = "image_check_died"
    retryable = True


# ---- nobody's fault -----------------------------------------------------------------


class StorageError(IdefiqError):
    """The database or the blob store is away or failing."""

    code = "storage_unavailable"
    retryable = True


class HostBusy(StorageError):
    """This service fetches from the image's host as much as it allows itself."""

    code = "host_busy"
