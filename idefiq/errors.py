"""Errors of the client."""

from typing import Any


class IdefiqError(Exception):
    """Base of the client's errors."""


class ApiError(IdefiqError):
    """The service refused a request.

    Attributes:
        status: HTTP status.
        code: Stable name of the error, for example "unknown_model".
        errors: What is wrong with which field or line.
    """

    def __init__(
        self, status: int, code: str, detail: str, errors: list[dict[str, Any]] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.errors = status, code, errors or []


class WaitTimeout(IdefiqError):
    """The job had not finished when the time of `wait` was over. The job continues."""
