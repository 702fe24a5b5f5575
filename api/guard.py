"""Checks before any endpoint: who may send requests, and how large a body may be.

Plain ASGI, because a body has to be counted while it streams.
"""

import secrets
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import problem
from api.header_fields import media_type
from api.settings import ApiSettings
from db import logs, tracing
from db.tracing import RequestSpan
from db.vocabulary.errors import Forbidden, TooLarge

_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
#: A proxy in front means callers beyond this machine, whatever name they use for it.
_PROXIED = frozenset({"forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"})
#: The API serves no pages, so browsers must not run, load or frame its responses.
_HARDENING = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
#: Requests of machines that watch the service; they have no spans.
_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
MAX_HEADER_BYTES = 64 * 1024
NDJSON = "application/x-ndjson"
FORM = "multipart/form-data"


class BodyLimit:
    """Rejects a request whose body grows past its limit, however it is sent.

    One whose headers are longer than anybody needs is refused as it is.
    """

    def __init__(self, app: ASGIApp, settings: ApiSettings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
            refusal = problem(
                431,
                "headers_too_large",
                f"the headers are longer than {MAX_HEADER_BYTES} bytes",
                request_id=scope["state"]["request_id"],
            )
            await refusal(scope, receive, send)
            return
        await self._app(scope, _counting(receive, self._most(scope)), send)

    def _most(self, scope: Scope) -> int:
        """Byte limit of a request's body."""
        if scope["path"] == "/v1/chat/completions":
            return self._settings.max_line_bytes
        sent = media_type(Headers(scope=scope).get("content-type"))
        # Much only where it is read piece by piece, and after the key was looked at.
        return {
            ("/v1/jobs", NDJSON): self._settings.max_stream_bytes,
            ("/v1/files", FORM): self._settings.max_stream_bytes,
            ("/v1/images", FORM): self._settings.max_upload_request_bytes,
        }.get((scope["path"], sent), self._settings.max_body_bytes)


class RequestIds:
    """Gives every request an id and a span, and every response the headers that all have.

    These are its `x-request-id`, its `traceparent` and the hardening ones. Error bodies carry the
    same id, and so does the log line of an internal error.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = scope.setdefault("state", {})["request_id"] = f"req_{secrets.token_hex(12)}"

        given = Headers(scope=scope).get("traceparent")
        is_traced = scope["path"] not in _PROBES
        method = scope["method"]
        status = 500

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = name
                if span.traceparent:
                    headers["traceparent"] = span.traceparent
                # Only where there is none: the interactive pages have a policy of theirs.
                for header, value in _HARDENING.items():
                    headers.setdefault(header, value)
            await send(message)

        described = {"http.request.method": method, "idefiq.request_id": name}
        with (
            tracing.request_span(given, is_traced, **described) as span,
            logs.bound(**_ids(name, span)),
        ):
            try:
                await self._app(scope, receive, named)
            finally:
                route = getattr(scope.get("route"), "path", "")
                span.end(f"{method} {route}".strip(), status)


def _ids(request_id: str, span: RequestSpan) -> dict[str, object]:
    if not span.traceparent:
        return {"request_id": request_id}
    return {"request_id": request_id, "trace_id": tracing.trace_id(span.traceparent)}


def _counting(receive: Receive, most: int) -> Callable[[], Any]:
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            raise TooLarge(f"the body is larger than {most} bytes")
        return message

    return counted


def check_local(headers: Headers) -> None:
    """Reject requests that a web page could send to a service without API keys.

    A page in the user's browser can reach loopback: under its own name after rebinding its DNS,
    or with a plain form. Neither names this host, or says that it comes from here.

    Raises:
        Forbidden: The Host header is not a loopback name, or a browser says that the request
            comes from another site.
    """
    name = headers.get("host", "").rpartition(":")[0] or headers.get("host", "")
    if name not in _LOCAL_NAMES:
        raise Forbidden("without API keys only requests to localhost are answered")
    if _PROXIED & set(headers.keys()):
        raise Forbidden(
            "requests through a proxy are refused without API keys: set IDEFIQ_KEYS=always"
        )
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise Forbidden("requests from other web sites are refused without API keys")
