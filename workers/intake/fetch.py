"""The guarded fetcher: images from strangers' servers, and never from our own network.

    url ─▶ scheme, port, no userinfo ─▶ resolve ─▶ every address allowed? ─▶ connect to that
     ▲                                                                          address
     └──────────────── redirect, checked again from the start ◀─────────────────────┘

The name is resolved once and the checked address is connected to, so a name that changes its
mind in between gains nothing. TLS still verifies the name. No proxy, no cookie, no compression.
"""

import ipaddress
import socket
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpcore2

from db.errors import FetchFailed, ImageForbidden, ImageNotFound, ImageTooLarge, ItemError
from workers.settings import IntakeSettings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], Iterable[str]]

#: No compression: a small body must not become a large one after the size was counted.
_HEADERS = [
    ("User-Agent", "idefiq/0.1 (image fetcher)"),
    ("Accept", "image/*"),
    ("Accept-Encoding", "identity"),
]
_REDIRECTS = (301, 302, 303, 307, 308)
_BUSY = (408, 425, 429)
#: Prefixes that carry an IPv4 address inside, through which a private one could be reached.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")
#: Not global either, whatever this Python's tables say: IETF protocols and 6to4 relays.
_SPECIAL = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24")))


def resolve(host: str, port: int) -> list[str]:
    """Every address of a name, by the system's resolver."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def is_public(address: Address) -> bool:
    """Whether an address, and any address that it carries inside, is on the public internet."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address.teredo:
            inner = address.teredo[1]
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if address in _NAT64_LOCAL or address.is_site_local:
            return False
        if inner is not None:
            return is_public(inner)
    if any(address in network for network in _SPECIAL):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


class GuardedNetwork(httpcore2.NetworkBackend):
    """Opens connections only to addresses that are allowed, after resolving the name once."""

    def __init__(self, settings: IntakeSettings, resolver: Resolver) -> None:
        self._networks = settings.fetch_networks
        self._resolver = resolver
        self._sockets = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        """Connect to the first address of `host` that answers.

        Raises:
            ImageForbidden: Any address of the name is not allowed.
        """
        failure: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in self._allowed(host, port):
            try:
                return self._sockets.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    def _allowed(self, host: str, port: int) -> list[str]:
        try:
            addresses = list(self._resolver(host, port))
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(f"{host} does not resolve") from error
        for text in addresses:
            address = ipaddress.ip_address(text.partition("%")[0])
            named = any(address in network for network in self._networks)
            if not named and not is_public(address):
                # The address itself is not told: that would map our network for the asker.
                raise ImageForbidden(f"{host} is not on the public internet")
        return addresses


class Fetcher:
    """Fetches images over HTTP.

    Args:
        settings: Timeouts, sizes, ports and networks.
        resolver: Name and port to addresses; the system's unless a test scripts it.
    """

    def __init__(self, settings: IntakeSettings, resolver: Resolver = resolve) -> None:
        self._settings = settings
        self._pool = httpcore2.ConnectionPool(
            ssl_context=ssl.create_default_context(),
            network_backend=GuardedNetwork(settings, resolver),
            max_connections=settings.intake_fetches * 2,
            keepalive_expiry=5.0,
        )
        self._hosts: defaultdict[str, threading.BoundedSemaphore] = defaultdict(
            lambda: threading.BoundedSemaphore(settings.fetch_per_host)
        )
        self._lock = threading.Lock()

    def fetch(self, url: str) -> bytes:
        """The bytes behind an http or https URL.

        Raises:
            ImageForbidden: It leads where images may not be fetched from.
            ImageNotFound: The server says that there is nothing.
            ImageTooLarge: More bytes than allowed; the rest is not read.
            FetchFailed: The server is busy, slow, broken or away.
        """
        deadline = time.monotonic() + self._settings.fetch_total_seconds
        for _ in range(self._settings.fetch_redirects + 1):
            host = self._checked_host(url)
            with self._lock:
                turn = self._hosts[host]
            if not turn.acquire(timeout=max(0.0, deadline - time.monotonic())):
                raise FetchFailed(f"{host} has too many other fetches waiting")
            try:
                answer = self._get(url, deadline)
            finally:
                turn.release()
            if isinstance(answer, bytes):
                return answer
            url = urljoin(url, answer)
        raise ImageNotFound(f"more than {self._settings.fetch_redirects} redirects")

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()

    def _checked_host(self, url: str) -> str:
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise ImageForbidden("the URL is malformed") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ImageForbidden("only http and https URLs are fetched")
        if parts.username is not None or parts.password is not None:
            raise ImageForbidden("a URL with a user name in it is not fetched")
        if port not in self._settings.fetch_ports:
            raise ImageForbidden(f"port {port} is not fetched from")
        return parts.hostname

    def _get(self, url: str, deadline: float) -> bytes | str:
        """The body, or where a redirect leads."""
        settings = self._settings
        timeouts = {
            "connect": settings.fetch_connect_seconds,
            "read": settings.fetch_read_seconds,
            "write": settings.fetch_read_seconds,
            "pool": settings.fetch_total_seconds,
        }
        try:
            with self._pool.stream(
                "GET", url.partition("#")[0], headers=_HEADERS, extensions={"timeout": timeouts}
            ) as response:
                fields = {name.lower(): value for name, value in response.headers}
                if response.status in _REDIRECTS and b"location" in fields:
                    return fields[b"location"].decode("latin-1")
                _check_status(response.status)
                return self._read(response, deadline)
        except (httpcore2.TimeoutException, httpcore2.NetworkError) as error:
            raise FetchFailed(f"the image's server failed: {type(error).__name__}") from error
        except (httpcore2.ProtocolError, httpcore2.UnsupportedProtocol, UnicodeError) as error:
            raise FetchFailed("the image's server does not speak HTTP") from error

    def _read(self, response: httpcore2.Response, deadline: float) -> bytes:
        body = bytearray()
        for chunk in response.iter_stream():
            body += chunk
            if len(body) > self._settings.max_image_bytes:
                raise ImageTooLarge(f"more than {self._settings.max_image_bytes} bytes")
            if time.monotonic() > deadline:
                raise FetchFailed(f"took longer than {self._settings.fetch_total_seconds:g} s")
        return bytes(body)


def _check_status(status: int) -> None:
    if 200 <= status < 300:
        return
    if status in _BUSY or status >= 500:
        raise FetchFailed(f"the image's server answered {status}")
    error: type[ItemError] = ImageForbidden if status in (401, 403) else ImageNotFound
    raise error(f"the image's server answered {status}")
