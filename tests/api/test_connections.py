"""Connections that ask nothing: how long they may, and how many there may be."""

import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx2
import pytest

from api.connections import MAX_UNREAD_BYTES, counted_as
from tests.served import Serve

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
PATIENCE = 60.0
Connect = Callable[..., socket.socket]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Connect to an API, from an address of the loopback."""
    with ExitStack() as opened:

        def connect(http: httpx2.Client, source: str = "127.0.0.1") -> socket.socket:
            address = (http.base_url.host, http.base_url.port)
            made = socket.create_connection(address, PATIENCE, source_address=(source, 0))
            return opened.enter_context(made)

        yield connect


def response(connection: socket.socket) -> bytes:
    """All that comes until the API closes the connection."""
    with connection.makefile("rb") as file:
        try:
            return file.read()
        except ConnectionResetError:  # it was closed before all had been read that we sent
            return b""


@pytest.mark.parametrize("sent", [b"", b"GET", REQUEST, REQUEST + b"X-Long: " + b"x" * 5_000])
def test_headers_that_do_not_end_are_given_up(
    serve: Serve, sqlite_url: str, connect: Connect, sent: bytes
) -> None:
    connection = connect(serve(sqlite_url, header_seconds=0.2))

    connection.sendall(sent)

    assert response(connection).startswith(b"HTTP/1.1 408 ")


def test_the_headers_of_a_second_request_have_their_time_too(
    serve: Serve, sqlite_url: str, connect: Connect
) -> None:
    connection = connect(serve(sqlite_url, header_seconds=0.2))

    connection.sendall(REQUEST + b"\r\n")
    assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
    connection.sendall(REQUEST)

    assert b"HTTP/1.1 408 " in response(connection)


def test_headers_without_end_are_not_kept(serve: Serve, sqlite_url: str, connect: Connect) -> None:
    connection = connect(serve(sqlite_url, header_seconds=600))

    more = (b"X-Long: " + b"x" * (MAX_UNREAD_BYTES // 50) + b"\r\n") * 10_000

    connection.sendall(REQUEST)
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        connection.sendall(more)


def test_headers_without_end_behind_a_request_in_progress_are_not_kept(
    serve: Serve, sqlite_url: str, connect: Connect
) -> None:
    connection = connect(serve(sqlite_url, header_seconds=600))
    slow = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    more = b"X-Long: " + b"x" * (40 * MAX_UNREAD_BYTES)

    connection.sendall(slow * 8 + REQUEST)
    connection.settimeout(20)
    with pytest.raises((BrokenPipeError, ConnectionResetError, TimeoutError)):
        connection.sendall(more)


def test_trailers_without_end_are_not_kept(serve: Serve, sqlite_url: str, connect: Connect) -> None:
    connection = connect(serve(sqlite_url, header_seconds=600, keys="always"))
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    more = (b"X-Long: " + b"x" * (MAX_UNREAD_BYTES // 50) + b"\r\n") * 10_000

    connection.sendall(head + b"1\r\n[\r\n0\r\n")
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        connection.sendall(more)


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_an_address_of_ipv6_counts_as_its_network(address: str, counted: str) -> None:
    assert counted_as(address) == counted


def test_a_request_that_takes_long_is_not_given_up(
    serve: Serve, sqlite_url: str, connect: Connect
) -> None:
    """Its headers have come, so the time for headers is not that of its body."""
    connection = connect(serve(sqlite_url, header_seconds=0.05))
    body = b'{"items": []}'
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"

    connection.sendall(head + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body))
    connection.settimeout(0.5)
    with pytest.raises(TimeoutError):
        connection.recv(1)
    connection.settimeout(PATIENCE)
    connection.sendall(body)

    assert b"problem+json" in response(connection)


@contextmanager
def held(connect: Connect, http: httpx2.Client, count: int) -> Iterator[list[socket.socket]]:
    """Connections that say nothing, as one address opens them."""
    opened = [connect(http) for _ in range(count)]
    yield opened
    for one in opened:
        one.close()


def test_one_address_leaves_connections_for_the_others(
    serve: Serve, sqlite_url: str, connect: Connect
) -> None:
    http = serve(sqlite_url, max_connections=8, header_seconds=600)

    with held(connect, http, 6) as opened:
        refused = [response(one) for one in opened[4:]]
        other = connect(http, "127.0.0.2")
        other.sendall(REQUEST + b"Connection: close\r\n\r\n")

        assert [each.partition(b"\r\n")[0] for each in refused] == [
            b"HTTP/1.1 503 Service Unavailable"
        ] * 2
        assert response(other).startswith(b"HTTP/1.1 200 ")


def test_a_connection_that_is_closed_makes_room(
    serve: Serve, sqlite_url: str, connect: Connect
) -> None:
    http = serve(sqlite_url, max_connections=2, header_seconds=0.1)

    for _ in range(5):
        assert response(connect(http)).startswith(b"HTTP/1.1 408 ")


def test_the_api_may_open_as_many_files_as_its_machine_allows() -> None:
    code = (
        "import resource; from api.connections import raise_file_limit;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 512));"
        "print(raise_file_limit(), resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 512

    found = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout

    assert found == "512 (512, 512)\n"
