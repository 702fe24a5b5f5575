"""Pages of the web: read as they are served, reported, and never written."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from idefiq.alt import files, write
from idefiq.alt.drafts import DraftOutcome
from idefiq.alt.site import AltState, Site
from idefiq.errors import IdefiqError

PAGE = b'<html lang="en"><title>Home</title><img src="a.png"><img src="//example.org/b.png">'


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/old":
            self.send_response(302)
            self.send_header("Location", "/deep/page")
            self.end_headers()
            return
        self.send_response(200 if self.path == "/deep/page" else 404)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_images_of_a_fetched_page_are_resolved_against_its_url(web: str) -> None:
    site = Site([files.named(f"{web}/old")])

    assert [one.picture.url for one in site if one.picture] == [
        f"{web}/deep/a.png",
        "http://example.org/b.png",
    ]
    assert [one.state for one in site] == [AltState.ASK, AltState.ASK]
    assert site.findings[0].context.page_title == "Home"


def test_it_is_reported_and_cannot_be_written(web: str) -> None:
    site = Site([files.named(f"{web}/deep/page")])
    changed = write.changes(site.findings, {0: DraftOutcome("New", is_draft=False)})

    for refused in (write.write, write.patch):
        with pytest.raises(IdefiqError, match=r"on the web|cannot be patched"):
            refused(changed)


def test_a_missing_page_is_reported(web: str) -> None:
    missing = Site([files.named(f"{web}/nowhere")])
    away = Site([files.named("http://127.0.0.1:1/")])

    assert [one.reason for one in missing.unread] == [f"{web}/nowhere answers 404"]
    assert "http://127.0.0.1:1/ cannot be read" in away.unread[0].reason
