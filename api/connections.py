"""Connections to the API: how many there may be, and how long one may take to ask something.

accepted ─▶ share of its address ─▶ headers, within their time and size ─▶ the request
               └─ 503                 └─ 408, 431                           └─▶ the next one

uvicorn has no limit for either, so a thousand connections that never end their headers would be
the end of it.
"""

import asyncio
import ipaddress
import resource
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.guard import MAX_HEADER_BYTES
from api.settings import ApiSettings
from db.shares import Shares

#: So many bytes in a row that are no part of a body are not read on: one header without end, many
#: headers, or those behind a body. Shorter headers get a response that explains.
MAX_UNREAD_BYTES = 4 * MAX_HEADER_BYTES
#: Files and connections that the process needs besides those of its clients.
SPARE_FILES = 256
#: More open files than this are of no use, and a table of a billion would cost memory.
MAX_OPEN_FILES = 65_536

_CLOSED = "HTTP/1.1 {}\r\nConnection: close\r\nContent-Length: 0\r\n{}\r\n"
_BUSY = _CLOSED.format("503 Service Unavailable", "Retry-After: 1\r\n").encode()
_LATE = _CLOSED.format("408 Request Timeout", "").encode()
_LONG = _CLOSED.format("431 Request Header Fields Too Large", "").encode()


def raise_file_limit() -> int:
    """Raise the soft limit of open files as far as it goes. Returns what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return MAX_OPEN_FILES if soft == resource.RLIM_INFINITY else soft


class GuardedProtocol(HttpToolsProtocol):
    """A connection of uvicorn's, with limits. Made by guarded_protocol.

    An address may have as many connections as are free, so it never has all.
    """

    shares: Shares[str]
    header_seconds: float
    _address = ""
    _is_counted = False
    _deadline: asyncio.TimerHandle | None = None
    _unread_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._address = counted_as(self.client[0] if self.client else "")
        if not self.shares.allows(self._address):
            self._end(_BUSY)
            return
        self.shares.take(self._address)
        self._is_counted = True
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        if self._is_counted:
            self.shares.give_back(self._address)
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self.transport.is_closing():
            return
        self._unread_bytes += len(data)
        super().data_received(data)
        if self._unread_bytes > MAX_UNREAD_BYTES:
            self._end(_LONG)
        elif self._has_request():
            self._stop_waiting()
        else:
            self._expect_headers()

    def on_body(self, body: bytes) -> None:
        """Called by uvicorn's parser: bodies are counted where they are read."""
        self._unread_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called by uvicorn's parser at the end of a request."""
        self._unread_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Called by uvicorn when a response is complete."""
        self._stop_waiting()
        super().on_response_complete()

    def _has_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_headers(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.header_seconds, self._end, _LATE)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end(self, response: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(response)
            self.transport.close()


def counted_as(address: str) -> str:
    """An address of IPv6 counts as its network, of which anybody has a whole one."""
    if ":" not in address:
        return address
    return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))


def guarded_protocol(settings: ApiSettings, open_files: int) -> type[GuardedProtocol]:
    """Return the protocol for the limits of an API.

    Args:
        open_files: What the process may have open; see raise_file_limit.
    """
    room = max(1, min(settings.max_connections, open_files - SPARE_FILES))

    class LimitedProtocol(GuardedProtocol):
        shares = Shares[str](room)
        header_seconds = settings.header_seconds

    return LimitedProtocol
