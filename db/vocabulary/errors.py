"""Error classes of the service, and what follows from each.

    RequestError   the caller can fix it            → HTTP 4xx, nothing stored
    ItemError      the item is the cause            → the item fails, others are untouched
    EngineError    the batch or the device failed   → retried, a limited number of times
    StorageError   database or store unavailable    → retried, no attempt is charged

`code` is in responses and in the database, and never changes its meaning. api/errors.py maps each
class to its HTTP status.
"""

from typing import ClassVar


class IdefiqError(Exception):
    """Base of all errors of the service; the message is one sentence for a user."""

    code: str = "internal"
    retryable: ClassVar[bool] = False


# ---- of requests ----------------------------------------------------------


class RequestError(IdefiqError):
    """The request is invalid."""

    code = "invalid_request"

    def __init__(self, message: str, *, field: str | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.line = line


class NotFound(RequestError):
    """The resource does not exist, or belongs to another owner."""

    code = "not_found"


class UnknownModel(RequestError):
    """No engine has ever offered this model."""

    code = "unknown_model"


class UnsupportedKind(RequestError):
    """The model does not support this kind of item."""

    code = "unsupported_kind"


class IdempotencyConflict(RequestError):
    """The Idempotency-Key was used before with another body."""

    code = "idempotency_conflict"


class Unauthorized(RequestError):
    """The API key is missing, unknown, revoked or expired."""

    code = "unauthorized"


class Forbidden(RequestError):
    """The caller is not allowed to do this."""

    code = "forbidden"


class WrongMediaType(RequestError):
    """The Content-Type of the body is not supported by this route."""

    code = "wrong_media_type"


class TooLarge(RequestError):
    """The body, or something in it, is larger than its limit."""

    code = "too_large"


class QuotaExceeded(RequestError):
    """The owner's quota is exceeded.

    Attributes:
        quota: Name of the quota: queued-items or stored-bytes.
        limit: What the quota allows.
        left: What remains of the quota.
    """

    code = "quota_exceeded"

    def __init__(self, message: str, *, quota: str, limit: int, left: int) -> None:
        super().__init__(message)
        self.quota, self.limit, self.left = quota, limit, left


class NotReady(RequestError):
    """Not ready yet; try again later."""

    code = "not_ready"


class ReviewConflict(RequestError):
    """Somebody else has decided since the caller read the review."""

    code = "review_conflict"


class Unsupported(RequestError):
    """The service, as it is configured, cannot do this."""

    code = "unsupported"


# ---- of items ---------------------------------------------------------


class ItemError(IdefiqError):
    """The item can never be answered and is not retried."""

    code = "item_invalid"


class ImageUnreadable(ItemError):
    """The bytes are not an image of an accepted format, or are damaged."""

    code = "image_unreadable"


class ImageTooLarge(ItemError):
    """The image has more bytes, more pixels or a more extreme shape than allowed."""

    code = "image_too_large"


class ImageNotFound(ItemError):
    """No image exists at the reference."""

    code = "image_not_found"


class ImageUnreachable(ItemError):
    """The image's server cannot be reached, and the caller waits for no other attempt."""

    code = "image_unreachable"


class ImageForbidden(ItemError):
    """The owner, or the service, may not read the reference."""

    code = "image_forbidden"


class ImageMismatch(ItemError):
    """The stored bytes do not have the digest that names them."""

    code = "image_mismatch"


class PromptTooLong(ItemError):
    """Prompt and images do not fit the model's context."""

    code = "prompt_too_long"


class ItemRefused(ItemError):
    """The model's processor or chat template rejects the item."""

    code = "item_refused"


class OutOfMemory(ItemError):
    """The item does not fit the device, even alone."""

    code = "out_of_memory"


class Poison(ItemError):
    """The device hung repeatedly while the item ran alone."""

    code = "poison"


class ImagePoison(ItemError):
    """The process that checked the image died or timed out twice."""

    code = "image_poison"


# ---- retried, bounded ---------------------------------------------------------------


class FetchFailed(IdefiqError):
    """The image's server is slow, busy or unreachable."""

    code = "fetch_failed"
    retryable = True


class EngineError(IdefiqError):
    """A batch or the device failed; the item itself may be good."""

    code = "engine_error"
    retryable = True


class CheckDied(IdefiqError):
    """The process that checked an image died for the first time."""

    code = "image_check_died"
    retryable = True


# ---- of the storage -----------------------------------------------------------------


class StorageError(IdefiqError):
    """The database or the blob store is unavailable."""

    code = "storage_unavailable"
    retryable = True
