"""Errors as problem+json (RFC 9457); the one place that knows HTTP statuses.

{"type": "urn:idefiq:error:unknown_model", "title": …, "status": 422, "code": "unknown_model",
 "detail": "one sentence", "errors": [{"field": "items.3.question", "line": 4, "message": …}]}

OpenAI's clients read another form, with statuses of its own:

{"error": {"message": "one sentence", "type": "invalid_request_error", "param": …, "code": …}}
"""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from db import errors, quotas
from db.openai_rendering import error_body

STATUS: Mapping[type[errors.IdefiqError], int] = {
    errors.RequestError: 422,
    errors.NotFound: 404,
    errors.UnknownModel: 422,
    errors.UnsupportedKind: 422,
    errors.IdempotencyConflict: 422,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.TooLarge: 413,
    errors.Unsupported: 501,
    errors.WrongMediaType: 415,
    errors.NotReady: 409,
    errors.ReviewConflict: 409,
    errors.QuotaExceeded: 429,
    errors.StorageError: 503,
}
#: Sent with what will pass, and short enough that clients do wait.
RETRY_AFTER_SECONDS = 2

#: Where OpenAI's form is spoken.
OPENAI_PATHS = ("/v1/files", "/v1/batches", "/v1/chat/")
#: A 409 or 503 of ours may pass, but a conflict is not mended by sending the same again.
_NOT_AGAIN = {"x-should-retry": "false"}

#: Most mistakes that one answer names.
MOST_ERRORS = 10

log = logging.getLogger(__name__)


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    errors: list[dict[str, Any]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """One problem document."""
    body: dict[str, Any] = {
        "type": f"urn:idefiq:error:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
    }
    if errors:
        body["errors"] = errors
    return JSONResponse(
        body, status, headers=dict(headers or {}), media_type="application/problem+json"
    )


def envelope(
    status: int,
    code: str,
    message: str,
    *,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """One error in OpenAI's form."""
    if status == 422:
        status = 404 if code == errors.UnknownModel.code else 400
    if param:  # clients show the message alone
        message = f"{param}: {message}"
    said = dict(headers or {}) | (_NOT_AGAIN if status in (409, 504) else {})
    return JSONResponse(error_body(message, code, status=status, param=param), status, headers=said)


def request_error(error: ValidationError, *, line: int | None = None) -> errors.RequestError:
    """The first complaint of a validation as a RequestError that names its field."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or None
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "unknown field"
    return errors.RequestError(message, field=field, line=line)


def install(app: FastAPI) -> None:
    """Render every error of `app` as a problem."""
    app.add_exception_handler(errors.IdefiqError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unexpected)


def _status(error: errors.IdefiqError) -> int:
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500


def _ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.IdefiqError)
    status, headers, where = _status(error), {}, {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.NotReady | errors.StorageError):
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if status == 503:
        log.warning("%s %s: %s", request.method, request.url.path, error)
    if isinstance(error, errors.QuotaExceeded):
        headers |= _quota_headers(error)
    if isinstance(error, errors.RequestError):
        named = {"field": error.field, "line": error.line}
        where = {name: value for name, value in named.items() if value is not None}
    listed = [{**where, "message": str(error)}] if where else None
    places = [f"line {where['line']}"] if "line" in where else []
    places += [str(where["field"])] if "field" in where else []
    detail = ": ".join([*places, str(error)])
    if _speaks_openai(request):
        param = str(where["field"]) if "field" in where else None
        return envelope(status, error.code, str(error), param=param, headers=headers)
    return problem(status, error.code, detail, errors=listed, headers=headers)


def _quota_headers(error: errors.QuotaExceeded) -> dict[str, str]:
    """In the form of the draft on RateLimit header fields."""
    return {
        "Retry-After": str(quotas.RETRY_SECONDS),
        "RateLimit-Policy": f'"{error.quota}";q={error.most}',
        "RateLimit": f'"{error.quota}";r={error.left};t={quotas.RETRY_SECONDS}',
    }


def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    listed = [
        {"field": ".".join(str(part) for part in one["loc"][1:]), "message": one["msg"]}
        for one in error.errors()[:MOST_ERRORS]
    ]
    detail = "; ".join(": ".join(filter(None, one.values())) for one in listed[:3])
    if _speaks_openai(request):
        code, param = errors.RequestError.code, listed[0]["field"]
        return envelope(422, code, listed[0]["message"], param=param)
    return problem(422, errors.RequestError.code, detail, errors=listed)


def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, errors.IdefiqError):
        return _ours(request, error.__cause__)  # raised below while FastAPI read the body
    codes = {404: errors.NotFound.code, 405: "method_not_allowed"}
    code = codes.get(error.status_code, errors.RequestError.code)
    render = envelope if _speaks_openai(request) else problem
    return render(error.status_code, code, str(error.detail), headers=error.headers)


def _gone(request: Request, error: Exception) -> Response:
    """Whoever asked went away before the request was read: nobody is told, nothing is logged."""
    return Response(status_code=499)


def _unexpected(request: Request, error: Exception) -> JSONResponse:
    name = request.state.request_id
    log.error("%s: %s %s failed", name, request.method, request.url.path, exc_info=error)
    render = envelope if _speaks_openai(request) else problem
    return render(500, errors.IdefiqError.code, "the service failed; its log says how")


def _speaks_openai(request: Request) -> bool:
    # Theirs name themselves, so that they are understood elsewhere too.
    theirs = "x-stainless-lang" in request.headers
    return theirs or request.url.path.startswith(OPENAI_PATHS)
