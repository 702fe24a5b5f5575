"""Authentication around a request: before its body is read, and while a long response is sent.

FastAPI reads and parses a body before it looks at anything else, so a caller without a key could
make the API hold and parse megabytes. And a stream may be open for days: it ends soon after its key
was revoked or has expired.
"""

import logging
import time

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import error_response
from api.services import Services, authenticate
from db.vocabulary.errors import Forbidden, IdefiqError, StorageError, Unauthorized

_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS"})
#: The key of a response that is still being sent is looked up again after this time. A stream sends
#: something every 15 seconds, so it ends within a minute.
RECHECK_SECONDS = 30.0

log = logging.getLogger(__name__)


class _Revoked(Exception):
    """The key of a response is not valid any more; the response was ended."""


class Authentication:
    """Rejects a body of an unknown sender, and ends responses whose key is not valid any more."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        request, services = Request(scope), scope["app"].state.services
        if scope["method"] not in _WITHOUT_BODY:
            try:
                scope["state"]["caller"] = await run_in_threadpool(authenticate, request, services)
            except IdefiqError as error:
                await error_response(request, error)(scope, receive, send)
                return
        try:
            await self._app(scope, receive, _ending(request, services, send))
        except _Revoked:
            log.info("ended a response because its key is not valid any more")


def _ending(request: Request, services: Services, send: Send) -> Send:
    """Return a `send` that ends a long response whose key is not valid any more.

    Raises:
        _Revoked: It has.
    """
    checked_at = time.monotonic()

    async def checked(message: Message) -> None:
        nonlocal checked_at
        is_long = time.monotonic() - checked_at >= RECHECK_SECONDS
        if is_long and message["type"] == "http.response.body" and message.get("more_body"):
            checked_at = time.monotonic()
            try:
                await run_in_threadpool(authenticate, request, services)
            except (Unauthorized, Forbidden):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                raise _Revoked from None
            except StorageError as error:  # an outage says nothing about the key
                log.warning("%s; the key of an open response was not checked again", error)
        await send(message)

    return checked
