"""A guarded network for URLs of strangers: public addresses only.

url ─▶ scheme, port, no userinfo ─▶ resolve ─▶ every address allowed? ─▶ connect to that address

The name is resolved once and the checked address is connected to, so a name that changes its
mind in between gains nothing. TLS still verifies the name. No proxy of the environment is asked.
"""

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import httpcore2

from workers.addresses import Networks, Refused, is_public

Resolver = Callable[[str, int], Iterable[str]]


class TooSlow(Exception):
    """The other side took longer than allowed."""


def resolve(host: str, port: int) -> list[str]:
    """Resolve a name to all its addresses with the system's resolver."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


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
        self.sockets = httpcore2.SyncBackend()

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
                stream = self.sockets.connect_tcp(
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
