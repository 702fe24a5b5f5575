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
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

import httpcore2

from db.errors import (
    FetchFailed,
    HostBusy,
    ImageForbidden,
    ImageNotFound,
    ImageTooLarge,
    ItemError,
)
from workers.settings import IntakeSettings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], Iterable[str]]

#: No compression: a small body must not become a large one after the size was counted.
_HEADERS = [
    ("User-Agent", "idefiq/0.1 (image fetcher)"),
    ("Accept", "image/*"),
    ("Accept-Encoding", "identity"),
]
#: Hosts share this many turnstiles: more than are ever fetched from at once, and not without end.
HOSTS = 4096
#: What stays as it is in a path or query; everything else, letters of other scripts say, is quoted.
_URL_SAFE = "/:?#[]@!$&'()*+,;=%-._~"
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


class Deadline(threading.local):
    """When the fetch of this thread has to be over, by the monotonic clock."""

    at = float("inf")

    def left(self, timeout: float | None) -> float:
        """The shorter of `timeout` and the time that is left.

        Raises:
            FetchFailed: None is left.
        """
        left = self.at - time.monotonic()
        if left <= 0:
            raise FetchFailed("the image's server took too long")
        return left if timeout is None else min(left, timeout)


class BoundedStream(httpcore2.NetworkStream):
    """A connection whose every read and write ends at the deadline of the thread that does it.

    Without it a server that sends a byte of its headers now and then would hold us for ever.
    """

    def __init__(self, stream: httpcore2.NetworkStream, deadline: Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """See NetworkStream."""
        return self._stream.read(max_bytes, self._deadline.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """See NetworkStream."""
        self._stream.write(buffer, self._deadline.left(timeout))

    def close(self) -> None:
        """See NetworkStream."""
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        """See NetworkStream."""
        left = self._deadline.left(timeout)
        return BoundedStream(
            self._stream.start_tls(ssl_context, server_hostname, left), self._deadline
        )

    def get_extra_info(self, info: str) -> Any:
        """See NetworkStream."""
        return self._stream.get_extra_info(info)


class GuardedNetwork(httpcore2.NetworkBackend):
    """Opens connections only to addresses that are allowed, after resolving the name once."""

    def __init__(self, settings: IntakeSettings, resolver: Resolver, deadline: Deadline) -> None:
        self._deadline = deadline
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
                left = self._deadline.left(timeout)
                stream = self._sockets.connect_tcp(
                    address, port, left, local_address, socket_options
                )
                return BoundedStream(stream, self._deadline)
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
        self._deadline = Deadline()
        self._pool = httpcore2.ConnectionPool(
            ssl_context=ssl.create_default_context(),
            network_backend=GuardedNetwork(settings, resolver, self._deadline),
            max_connections=settings.intake_fetches * 2,
            keepalive_expiry=5.0,
        )
        self._turns = [threading.BoundedSemaphore(settings.fetch_per_host) for _ in range(HOSTS)]

    def fetch(self, url: str) -> bytes:
        """The bytes behind an http or https URL.

        Raises:
            ImageForbidden: It leads where images may not be fetched from.
            ImageNotFound: The server says that there is nothing.
            ImageTooLarge: More bytes than allowed; the rest is not read.
            FetchFailed: The server is busy, slow, broken or away.
        """
        deadline = self._deadline.at = time.monotonic() + self._settings.fetch_total_seconds
        for _ in range(self._settings.fetch_redirects + 1):
            url, host = self._checked(url)
            turn = self._turns[hash(host) % HOSTS]
            if not turn.acquire(timeout=max(0.0, deadline - time.monotonic())):
                raise HostBusy(f"other images of {host} are being fetched")
            try:
                answer = self._get(url, deadline)
            finally:
                turn.release()
            if isinstance(answer, bytes):
                return answer
            try:
                url = urljoin(url, answer)
            except ValueError as error:
                raise ImageNotFound("the image's server redirects to a malformed URL") from error
        raise ImageNotFound(f"more than {self._settings.fetch_redirects} redirects")

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()

    def _checked(self, url: str) -> tuple[str, str]:
        """The URL in ASCII and its host, if it may be fetched at all."""
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
        try:
            host = parts.hostname if ":" in parts.hostname else _ascii(parts.hostname)
        except UnicodeError as error:
            raise ImageForbidden("the URL's host is no name") from error
        place = f"[{host}]" if ":" in host else host
        if parts.port is not None:
            place += f":{parts.port}"
        path, query = (quote(part, safe=_URL_SAFE) for part in (parts.path or "/", parts.query))
        return urlunsplit((parts.scheme, place, path, query, "")), host

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
                "GET", url, headers=_HEADERS, extensions={"timeout": timeouts}
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
                raise FetchFailed("the image's server took too long")
        return bytes(body)


def _ascii(host: str) -> str:
    return host if host.isascii() else host.encode("idna").decode()


def _check_status(status: int) -> None:
    if 200 <= status < 300:
        return
    if status in _BUSY or status >= 500:
        raise FetchFailed(f"the image's server answered {status}")
    error: type[ItemError] = ImageForbidden if status in (401, 403) else ImageNotFound
    raise error(f"the image's server answered {status}")
