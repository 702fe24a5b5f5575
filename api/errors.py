"""Errors as HTTP responses: problem+json (RFC 9457), or the error objects of OpenAI's API.

{"type": "urn:idefiq:error:unknown_model", "title": …, "status": 422, "code": "unknown_model",
 "detail": "one sentence", "request_id": "req_…",
 "errors": [{"field": "items.3.question", "line": 4, "message": …}]}

OpenAI's clients read another form, with other statuses:

{"error": {"message": "one sentence", "type": "invalid_request_error", "param": …, "code": …,
           "request_id": "req_…"}}
"""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from db.queue import quotas
from db.vocabulary import errors
from db.vocabulary.openai_rendering import error_body
from db.vocabulary.validation_errors import dotted, first_error

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
#: Retry-After of errors that will pass; short, so that clients do wait.
RETRY_AFTER_SECONDS = 2

#: Paths whose errors have the form of OpenAI's API.
OPENAI_PATHS = ("/v1/files", "/v1/batches", "/v1/chat/")
#: What programs for OpenAI's API ask for and is not here, or elsewhere.
HINTS = {
    "/v1/completions": "there is POST /v1/chat/completions",
    "/v1/responses": "there is POST /v1/chat/completions",
    "/v1/uploads": "files of any size go to POST /v1/files",
    "/v1/embeddings": "this service answers questions about images, and makes no embeddings",
    **{
        path: f"the base URL ends with /v1: there is /v1{path}"
        for path in ("/chat/completions", "/models", "/files", "/batches")
    },
}
#: Tells OpenAI's clients that sending the same request again does not help.
_NOT_AGAIN = {"x-should-retry": "false"}

#: Most errors in one response.
MAX_ERRORS = 10

#: Codes that belong to no class of db/vocabulary/errors.py: status and meaning.
OTHER_CODES: Mapping[str, tuple[int, str]] = {
    "internal": (500, "Unexpected error; the service's log has it under the request id."),
    "method_not_allowed": (405, "The route does not support this HTTP method."),
    "headers_too_large": (431, "The request's headers are longer than 64 KiB."),
    "timeout": (504, "A chat completion took too long and was cancelled."),
    "cancelled": (400, "A chat completion was cancelled before it was answered."),
    "restarted": (500, "A streamed answer was generated again with another text; retry."),
    "batch_expired": (200, "In a batch's error file: the batch expired before this line."),
    "batch_cancelled": (200, "In a batch's error file: the batch was cancelled before this line."),
}

log = logging.getLogger(__name__)


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    errors: list[dict[str, Any]] | None = None,
    headers: Mapping[str, str] | None = None,
    request_id: str = "",
) -> JSONResponse:
    """Build a problem document."""
    body: dict[str, Any] = {
        "type": f"urn:idefiq:error:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
    }
    if request_id:
        body["request_id"] = request_id
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
    request_id: str = "",
) -> JSONResponse:
    """Build an error in the form of OpenAI's API."""
    if status == 422:
        status = 404 if code == errors.UnknownModel.code else 400
    if param:  # clients show the message alone
        message = f"{param}: {message}"
    sent = dict(headers or {}) | (_NOT_AGAIN if status in (409, 504) else {})
    body = error_body(message, code, status=status, param=param)
    if request_id:
        body["error"]["request_id"] = request_id
    return JSONResponse(body, status, headers=sent)


def install(app: FastAPI) -> None:
    """Install the handlers that render every error of `app`."""
    app.add_exception_handler(errors.IdefiqError, error_response)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unexpected)


def _status(error: errors.IdefiqError) -> int:
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500


def error_response(request: Request, error: Exception) -> JSONResponse:
    """Render one of our own errors."""
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
    if speaks_openai(request):
        param = str(where["field"]) if "field" in where else None
        return envelope(
            status,
            error.code,
            str(error),
            param=param,
            headers=headers,
            request_id=_request_id(request),
        )
    return problem(
        status,
        error.code,
        detail,
        errors=listed,
        headers=headers,
        request_id=_request_id(request),
    )


def _quota_headers(error: errors.QuotaExceeded) -> dict[str, str]:
    """Headers of the IETF draft on RateLimit header fields."""
    return {
        "Retry-After": str(quotas.RETRY_SECONDS),
        "RateLimit-Policy": f'"{error.quota}";q={error.limit}',
        "RateLimit": f'"{error.quota}";r={error.left};t={quotas.RETRY_SECONDS}',
    }


def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    listed = []
    for one in error.errors()[:MAX_ERRORS]:
        source, *location = one["loc"]
        if one["type"] == "json_invalid":
            location = []  # it is the position of a character
        sent = error.body if source == "body" else None
        path, message = first_error([{**one, "loc": location}], sent)
        listed.append({"field": dotted(path), "message": message})
    detail = "; ".join(": ".join(filter(None, one.values())) for one in listed[:3])
    if speaks_openai(request):
        code, param = errors.RequestError.code, listed[0]["field"]
        message = listed[0]["message"]
        return envelope(422, code, message, param=param, request_id=_request_id(request))
    return problem(
        422, errors.RequestError.code, detail, errors=listed, request_id=_request_id(request)
    )


def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, errors.IdefiqError):
        return error_response(request, error.__cause__)  # raised below while FastAPI read the body
    codes = {404: errors.NotFound.code, 405: "method_not_allowed"}
    code = codes.get(error.status_code, errors.RequestError.code)
    render = envelope if speaks_openai(request) else problem
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_methods(request))
    hint = HINTS.get(request.url.path.rstrip("/")) if error.status_code == 404 else None
    return render(
        error.status_code,
        code,
        f"no such route: {request.url.path}; {hint}" if hint else str(error.detail),
        headers=headers,
        request_id=_request_id(request),
    )


def _methods(request: Request) -> list[str]:
    """Methods of all routes with the path of a request: the first one alone has not all."""
    found = {
        method
        for method in ("DELETE", "GET", "PATCH", "POST", "PUT")
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.routes
        )
    }
    return sorted(found | ({"HEAD"} if "GET" in found else set()))  # see head_requests.py


def _gone(request: Request, error: Exception) -> Response:
    """The client has disconnected before the request was read: send and log nothing."""
    return Response(status_code=499)


def _unexpected(request: Request, error: Exception) -> JSONResponse:
    name = _request_id(request)
    log.error("%s: %s %s failed", name, request.method, request.url.path, exc_info=error)
    render = envelope if speaks_openai(request) else problem
    message = f"internal error (request {name}); see the service's log"
    return render(500, errors.IdefiqError.code, message, request_id=name)


def _request_id(request: Request) -> str:
    return str(request.state.request_id)


def speaks_openai(request: Request) -> bool:
    """True if a request is for OpenAI's API, or from one of its clients."""
    # OpenAI's own clients name themselves, so they get their form on all paths.
    theirs = "x-stainless-lang" in request.headers
    return theirs or request.url.path.startswith(OPENAI_PATHS)
