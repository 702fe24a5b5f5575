"""The guarded fetcher: what it fetches, and where it never goes."""

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network

import pytest

from db.vocabulary.errors import (
    FetchFailed,
    IdefiqError,
    ImageForbidden,
    ImageNotFound,
    ImageTooLarge,
)
from tests import pictures, servers
from workers.intake.fetch import Fetcher, HostBusy
from workers.intake.threads import HostTurns
from workers.settings import IntakeSettings

LOOPBACK = [ip_network("127.0.0.0/8")]
IMAGE = pictures.plain()


class Handler(BaseHTTPRequestHandler):
    """A stranger's web server with bad habits."""

    protocol_version = "HTTP/1.1"
    seen: list[dict[str, str]] = []  # noqa: RUF012 - one server, one list

    def do_GET(self) -> None:
        type(self).seen.append(
            {"path": self.path, **{k.lower(): v for k, v in self.headers.items()}}
        )
        getattr(self, "answer_" + self.path.strip("/").partition("/")[0], self.answer_image)()

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer_image(self) -> None:
        self.answer(200, IMAGE)

    def answer_status(self) -> None:
        self.answer(int(self.path.rpartition("/")[2]))

    def answer_redirect(self) -> None:
        self.answer(302, Location=self.path.removeprefix("/redirect/"))

    def answer_loop(self) -> None:
        self.answer(302, Location="/loop")

    def answer_endless(self) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"\0" * 65536)
        except OSError:
            pass

    def answer_slow(self) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"\0")
                time.sleep(0.05)
        except OSError:
            pass

    def answer_drip(self) -> None:
        try:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while True:
                self.wfile.write(b"X-Drip: 1\r\n")
                time.sleep(0.05)
        except OSError:
            pass

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture
def fetcher(port: int) -> Iterator[Fetcher]:
    made = Fetcher(settings(port), HostTurns(4))
    yield made
    made.close()


def settings(port: int, **changed: object) -> IntakeSettings:
    values: dict[str, object] = {
        "fetch_ports": {port, 80},
        "fetch_networks": LOOPBACK,
        "max_image_bytes": 1_000_000,
        "fetch_total_seconds": 1.0,
        "fetch_per_host": 2,
        **changed,
    }
    return IntakeSettings.model_validate(values)


def test_an_image_is_fetched_without_compression_and_without_secrets(
    fetcher: Fetcher, port: int
) -> None:
    Handler.seen.clear()

    data = fetcher.fetch(f"http://127.0.0.1:{port}/a.png?b=c#d")

    assert data == IMAGE
    [seen] = Handler.seen
    assert (seen["path"], seen["accept-encoding"]) == ("/a.png?b=c", "identity")
    assert not {"cookie", "authorization", "proxy-authorization"} & seen.keys()


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, ImageNotFound),
        (410, ImageNotFound),
        (401, ImageForbidden),
        (403, ImageForbidden),
        (408, FetchFailed),
        (429, FetchFailed),
        (500, FetchFailed),
        (503, FetchFailed),
    ],
)
def test_what_may_pass_is_tried_again_and_what_will_not_is_final(
    fetcher: Fetcher, port: int, status: int, error: type[IdefiqError]
) -> None:
    with pytest.raises(error):
        fetcher.fetch(f"http://127.0.0.1:{port}/status/{status}")

    assert error.retryable == (error is FetchFailed)


def test_a_redirect_is_followed_a_few_times(fetcher: Fetcher, port: int) -> None:
    assert fetcher.fetch(f"http://127.0.0.1:{port}/redirect//image") == IMAGE

    with pytest.raises(ImageNotFound, match="redirects"):
        fetcher.fetch(f"http://127.0.0.1:{port}/loop")


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/",
        "http://[::1]/",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "http://127.0.0.1:22/",
    ],
)
def test_a_redirect_is_checked_like_the_first_url(fetcher: Fetcher, port: int, target: str) -> None:
    with pytest.raises(ImageForbidden):
        fetcher.fetch(f"http://127.0.0.1:{port}/redirect/{target}")


def test_an_endless_body_is_cut_off(fetcher: Fetcher, port: int) -> None:
    with pytest.raises(ImageTooLarge):
        fetcher.fetch(f"http://127.0.0.1:{port}/endless")


def test_a_body_that_trickles_ends_at_the_deadline(fetcher: Fetcher, port: int) -> None:
    for habit in ("slow", "drip"):
        with pytest.raises(FetchFailed):  # the server itself would go on for ever
            fetcher.fetch(f"http://127.0.0.1:{port}/{habit}")


def test_letters_of_any_script_may_be_in_a_url(fetcher: Fetcher, port: int) -> None:
    Handler.seen.clear()

    fetcher.fetch(f"http://127.0.0.1:{port}/bücher/ü%20x.png?q=ä b")

    assert Handler.seen[0]["path"] == "/b%C3%BCcher/%C3%BC%20x.png?q=%C3%A4%20b"


def test_a_redirect_to_nonsense_is_an_error_of_the_image(fetcher: Fetcher, port: int) -> None:
    with pytest.raises((ImageNotFound, ImageForbidden)):
        fetcher.fetch(f"http://127.0.0.1:{port}/redirect/http://[bad")


def test_a_server_that_is_away_may_come_back(port: int) -> None:
    closed = servers.free_port()
    fetcher = Fetcher(settings(closed), HostTurns(4))

    with pytest.raises(FetchFailed):
        fetcher.fetch(f"http://127.0.0.1:{closed}/")


def test_one_host_gets_only_so_many_requests_at_a_time(port: int) -> None:
    hosts = HostTurns(per_host=1)
    fetcher = Fetcher(settings(port), hosts)
    url = f"http://127.0.0.1:{port}/image"

    assert hosts.take("127.0.0.1")
    with pytest.raises(HostBusy) as busy:
        fetcher.fetch(url)
    hosts.give_back("127.0.0.1")

    assert busy.value.host == fetcher.host_of(url) == "127.0.0.1"
    assert [fetcher.fetch(url) for _ in range(2)] == [IMAGE] * 2
    fetcher.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://localhost/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://0.0.0.0/",
        "http://[::]/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:169.254.169.254]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://192.168.2.1/",
        "http://10.1.2.3/",
        "http://172.16.0.1/",
        "http://100.64.0.1/",
        "http://[fd00:ec2::254]/",
        "http://[fe80::1]/",
        "http://user:password@example.com/",
        "http://example.com:22/",
        "file:///etc/passwd",
        "ftp://example.com/",
        "//example.com/",
        "http:///",
        "http://[",
    ],
)
def test_our_own_network_is_never_reached(url: str) -> None:
    fetcher = Fetcher(IntakeSettings(), HostTurns(4))

    with pytest.raises(ImageForbidden):
        fetcher.fetch(url)


class TestNamesThatChangeTheirMind:
    """Names whose answers are scripted, look-up by look-up."""

    @pytest.fixture(autouse=True)
    def _closing(self) -> Iterator[None]:
        self.made: list[Fetcher] = []
        yield
        for fetcher in self.made:
            fetcher.close()

    def fetcher(self, port: int, answers: list[list[str]]) -> tuple[Fetcher, Callable[[], int]]:
        asked = 0

        def resolver(host: str, port: int) -> list[str]:
            nonlocal asked
            asked += 1
            return answers[min(asked, len(answers)) - 1]

        allowed = [ip_network("127.0.0.1/32")]
        fetcher = Fetcher(settings(port, fetch_networks=allowed), HostTurns(4), resolver)
        self.made.append(fetcher)
        return fetcher, lambda: asked

    def test_the_checked_address_is_the_one_that_is_connected_to(self, port: int) -> None:
        fetcher, asked = self.fetcher(port, [["127.0.0.1"], ["10.0.0.1"]])

        assert fetcher.fetch(f"http://images.example:{port}/") == IMAGE
        assert asked() == 1

    def test_a_private_address_among_public_ones_spoils_the_name(self, port: int) -> None:
        fetcher, _ = self.fetcher(port, [["127.0.0.1", "10.0.0.1"]])

        with pytest.raises(ImageForbidden) as caught:
            fetcher.fetch(f"http://images.example:{port}/")
        assert "10.0.0.1" not in str(caught.value)

    def test_the_host_header_is_the_name_and_not_the_address(self, port: int) -> None:
        fetcher, _ = self.fetcher(port, [["127.0.0.1"]])
        Handler.seen.clear()

        fetcher.fetch(f"http://images.example:{port}/")

        assert Handler.seen[0]["host"] == f"images.example:{port}"
