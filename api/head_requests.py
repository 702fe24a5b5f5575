"""HEAD: a GET of which only the head is wanted (RFC 9110, section 9.3.2)."""

import asyncio
import contextlib

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadRequests:
    """Answers HEAD as GET, without the body; a stream that never ends is ended after its head."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        over = asyncio.Event()

        async def received() -> Message:
            arriving = asyncio.ensure_future(receive())
            ending = asyncio.ensure_future(over.wait())
            await asyncio.wait({arriving, ending}, return_when=asyncio.FIRST_COMPLETED)
            ending.cancel()
            if arriving.done():
                return arriving.result()
            arriving.cancel()
            return {"type": "http.disconnect"}

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                over.set()
            elif message.get("more_body"):
                raise OSError("nobody waits for this body")  # as when a client has gone away

        with contextlib.suppress(ClientDisconnect, OSError):
            await self._app({**scope, "method": "GET"}, received, sent)
