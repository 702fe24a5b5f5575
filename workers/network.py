"""A guarded network for URLs of strangers: public addresses only.

url ─▶ scheme, port, no userinfo ─▶ resolve ─▶ every address allowed? ─▶ connect to that address

The name is resolved once and the checked address is connected to, so a name that changes its
mind in between gains nothing. TLS still verifies the name. No proxy of the environment is asked.
"""

import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import httpcore2

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], Iterable[str]]
#: Networks beyond the public ones that may be reached.
Networks = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]

#: What stays as it is in a path or query; everything else, letters of other scripts say, is quoted.
_URL_SAFE = "/:?#[]@!$&'()*+,;=%-._~"
MAX_HOST_CHARACTERS = 253
#: Names and addresses, without empty parts.
_HOST = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?|[0-9A-Fa-f:.]+")
#: Prefixes that carry an IPv4 address inside, through which a private one could be reached.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")
#: Not global either, whatever this Python's tables say: IETF protocols and 6to4 relays.
_SPECIAL = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24")))


class Refused(Exception):
    """The URL is not allowed; the message is one sentence for its owner."""


class TooSlow(Exception):
    """The other side took longer than allowed."""


def resolve(host: str, port: int) -> list[str]:
    """Resolve a name to all its addresses with the system's resolver."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def is_public(address: Address) -> bool:
    """True if an address, and any address embedded in it, is on the public internet."""
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


def checked(url: str, ports: Collection[int]) -> tuple[str, str]:
    """Return the URL in ASCII and its host, if it is allowed at all.

    Raises:
        Refused: It is malformed, or has a scheme, port or user name that is not taken.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise Refused("the URL is malformed") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Refused("only http and https URLs are allowed")
    if parts.username is not None or parts.password is not None:
        raise Refused("a URL with a user name is not allowed")
    if port not in ports:
        taken = " and ".join(map(str, sorted(ports)))
        raise Refused(f"port {port} is not allowed; allowed ports: {taken}")
    try:
        host = parts.hostname if ":" in parts.hostname else _ascii(parts.hostname)
    except UnicodeError as error:
        raise Refused("the URL's host is invalid") from error
    if len(host) > MAX_HOST_CHARACTERS or not _HOST.fullmatch(host):
        raise Refused("the URL's host is invalid")
    place = f"[{host}]" if ":" in host else host
    if parts.port is not None:
        place += f":{parts.port}"
    path, query = (quote(part, safe=_URL_SAFE) for part in (parts.path or "/", parts.query))
    return urlunsplit((parts.scheme, place, path, query, "")), host


def _ascii(host: str) -> str:
    return host if host.isascii() else host.encode("idna").decode()


class Deadline(threading.local):
    """Deadline of the exchange of this thread, on the monotonic clock."""

    at = float("inf")

    def left(self, timeout: float | None) -> float:
        """Return `timeout` or the remaining time, whichever is shorter.

        Raises:
            TooSlow: None is left.
        """
        left = self.at - time.monotonic()
        if left <= 0:
            raise TooSlow
        return left if timeout is None else min(left, timeout)


class BoundedStream(httpcore2.NetworkStream):
    """A connection whose reads and writes end at the deadline of their thread.

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
    """Connects only to allowed addresses, after resolving a name once."""

    def __init__(self, networks: Networks, resolver: Resolver, deadline: Deadline) -> None:
        self._deadline = deadline
        self._networks = networks
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
            Refused: Any address of the name is not allowed.
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
                raise Refused(f"{host} is not on the public internet")
        return addresses


def pool(
    networks: Networks, deadline: Deadline, *, most: int, resolver: Resolver = resolve
) -> httpcore2.ConnectionPool:
    """Build a connection pool to allowed addresses, with at most `most` connections."""
    return httpcore2.ConnectionPool(
        ssl_context=ssl.create_default_context(),
        network_backend=GuardedNetwork(networks, resolver, deadline),
        max_connections=most,
        keepalive_expiry=5.0,
    )
