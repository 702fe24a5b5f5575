"""The network as strangers may use it: every way to name our own is refused.

No packet leaves this machine: addresses are checked before anybody connects, names are answered
by a script, and where a connection would be made, a recorder notes it instead.
"""

import http.server
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import httpcore2
import pytest

from workers import network
from workers.addresses import Refused, checked, is_public
from workers.network import Deadline, GuardedNetwork

PUBLIC = [
    "8.8.8.8", "1.1.1.1", "93.184.216.34", "172.15.255.255", "172.32.0.1", "192.167.255.255",
    "100.63.255.255", "100.128.0.1", "223.255.255.255", "2606:4700:4700::1111",
    "2a00:1450:4001:81b::200e", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1",
]  # fmt: skip
#: Of smokescreen, Advocate and OWASP's sheet, and the metadata services of clouds.
OURS = [
    "0.0.0.0", "0.1.1.1", "0.255.255.255", "10.0.0.1", "10.255.255.255", "100.64.0.1",
    "100.100.100.200", "100.127.255.255", "127.0.0.1", "127.0.1.1", "127.255.255.255",
    "168.63.129.16", "::ffff:168.63.129.16",
    "169.254.0.1", "169.254.169.254", "169.254.170.2", "172.16.0.1", "172.31.255.255",
    "192.0.0.8", "192.0.0.170", "192.0.2.1", "192.88.99.1", "192.168.0.1", "192.168.255.255",
    "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1",
    "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "::ffff:192.168.2.1", "::ffff:0.0.0.0", "::127.0.0.1", "64:ff9b::127.0.0.1",
    "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "100::1", "2001::1",
    "2001:0:7f00:1::", "2001:2::1", "2001:10::1", "2001:db8::1", "2002:7f00:1::",
    "2002:a00:1::", "2002:a9fe:a9fe::", "2002:c0a8:1::", "fc00::1", "fd00:ec2::254",
    "fd12:3456:789a::1", "fe80::1", "fe80::a9fe:a9fe", "fec0::1", "feff::1", "ff00::1",
    "ff02::1", "ff0e::1",
]  # fmt: skip
#: Spellings of loopback; the port is that of a server that must hear nothing.
LOOPBACK = [
    "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0x7F.0x0.0x0.0x1",
    "0177.0.0.1", "0177.0.0.01", "017700000001", "00000177.0.0.1", "0.0.0.0", "0", "0x0",
    "127.127.127.127", "localhost", "LOCALHOST", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]",
]  # fmt: skip
#: What a name may answer, and whatever else it answers beside it.
NAMES = ["metadata.google.internal", "localtest.me", "127.0.0.1.nip.io", "a.example", "a.example."]
MALFORMED = [
    "file:///etc/passwd", "ftp://a.example/", "gopher://a.example/", "dict://a.example:11211/",
    "data:text/plain,x", "javascript:alert(1)", "//a.example/", "a.example", "http:///", "http://",
    "http:a.example", "http://[", "http://[::1", "http://a.example:99999/", "http://a.example:-1/",
    "http://a.example:x/", "http://user@a.example/", "http://user:password@a.example/",
    "http://:@a.example/", "http://a.example@127.0.0.1/",
    "http://a.example:22/", "http://a.example:6379/", "https://a.example:8443/", "",
    "http://a\x00.example/", "http://\u2025.example/", "http://" + "a" * 300 + ".example/",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_may_be_reached(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize("address", OURS)
def test_what_is_ours_or_carries_it_inside_may_not(address: str) -> None:
    assert not is_public(ip_address(address))


class Recorder(httpcore2.SyncBackend):
    """Notes where a connection would go, and makes none."""

    def __init__(self) -> None:
        self.connected: list[str] = []

    def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore2.NetworkStream:
        self.connected.append(host)
        raise httpcore2.ConnectError("this is only a recorder")


def guarded(answers: list[list[str]]) -> tuple[GuardedNetwork, Recorder]:
    """A network whose names are answered from a script, look-up by look-up."""
    left = iter(answers)
    made = GuardedNetwork([], lambda _, __: next(left), Deadline())
    made.sockets = recorder = Recorder()
    return made, recorder


@pytest.mark.parametrize("address", OURS)
@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_to_us_is_refused_even_among_public_answers(
    name: str, address: str
) -> None:
    for answers in ([address], ["8.8.8.8", address], [address, "2606:4700:4700::1111"]):
        made, recorder = guarded([answers])

        with pytest.raises(Refused) as refused:
            made.connect_tcp(name, 80)

        assert recorder.connected == []
        assert address in name or address not in str(refused.value)


def test_a_name_is_asked_for_once_and_the_answer_that_was_checked_is_connected_to() -> None:
    made, recorder = guarded([["8.8.8.8"], ["127.0.0.1"]])

    with pytest.raises(httpcore2.ConnectError):
        made.connect_tcp("rebinds.example", 80)

    assert recorder.connected == ["8.8.8.8"]


@pytest.fixture
def canary() -> Iterator[http.server.ThreadingHTTPServer]:
    """A server of ours that must hear nothing; `heard` lists what it did."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.heard.append(self.path)  # type: ignore[attr-defined]

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.heard = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_no_spelling_of_loopback_reaches_a_server_of_ours(
    canary: http.server.ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{canary.server_port}")
    pool = network.pool([], Deadline(), most=1)

    for spelling in LOOPBACK:
        try:
            url, _ = checked(f"http://{spelling}:{canary.server_port}/", {canary.server_port})
            with pytest.raises((Refused, httpcore2.ConnectError)):
                pool.request("GET", url)
        except Refused:
            continue
    pool.close()

    assert canary.heard == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("url", MALFORMED, ids=ascii)
def test_a_url_that_is_none_or_asks_for_more_than_a_page_is_refused(url: str) -> None:
    with pytest.raises(Refused):
        checked(url, {80, 443})


def test_so_many_vectors_are_tried() -> None:
    tried = len(OURS) * (1 + 3 * len(NAMES)) + len(LOOPBACK) + len(MALFORMED)

    assert tried >= 1_000
