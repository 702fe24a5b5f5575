"""The guarded HTTP client for images on other people's servers.

Each redirect is checked again from the start, see workers/network.py. No cookie, no compression.
"""

import threading
import time
from urllib.parse import urljoin

import httpcore2

from db.vocabulary.errors import (
    FetchFailed,
    HostBusy,
    ImageForbidden,
    ImageNotFound,
    ImageTooLarge,
    ItemError,
)
from workers import network
from workers.addresses import Refused, checked
from workers.network import Resolver, TooSlow, resolve
from workers.settings import IntakeSettings

#: No compression: a small body must not become a large one after the size was counted.
_HEADERS = [
    ("User-Agent", "idefiq/0.1 (image fetcher)"),
    ("Accept", "image/*"),
    ("Accept-Encoding", "identity"),
]
#: Hosts share this many turnstiles: more than are ever fetched from at once, and not without end.
HOSTS = 4096
_REDIRECTS = (301, 302, 303, 307, 308)
_BUSY = (408, 425, 429)


class Fetcher:
    """Fetches images over HTTP.

    Args:
        settings: Timeouts, sizes, ports and networks.
        resolver: Name and port to addresses; the system's unless a test scripts it.
    """

    def __init__(self, settings: IntakeSettings, resolver: Resolver = resolve) -> None:
        self._settings = settings
        self._deadline = network.Deadline()
        self._pool = network.pool(
            settings.fetch_networks,
            self._deadline,
            most=settings.intake_fetches * 2,
            resolver=resolver,
        )
        self._turns = [threading.BoundedSemaphore(settings.fetch_per_host) for _ in range(HOSTS)]

    def fetch(self, url: str) -> bytes:
        """Return the bytes behind an http or https URL.

        Raises:
            ImageForbidden: It leads where images may not be fetched from.
            ImageNotFound: The server says that there is nothing.
            ImageTooLarge: More bytes than allowed; the rest is not read.
            FetchFailed: The server is busy, slow, broken or away.
        """
        try:
            return self._follow(url)
        except Refused as error:
            raise ImageForbidden(str(error)) from error
        except TooSlow as error:
            raise FetchFailed("the image's server took too long") from error

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    def _follow(self, url: str) -> bytes:
        deadline = self._deadline.at = time.monotonic() + self._settings.fetch_total_seconds
        for _ in range(self._settings.fetch_redirects + 1):
            url, host = checked(url, self._settings.fetch_ports)
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

    def _get(self, url: str, deadline: float) -> bytes | str:
        """Return the body, or the target of a redirect."""
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
                raise TooSlow
        return bytes(body)


def _check_status(status: int) -> None:
    if 200 <= status < 300:
        return
    if status in _BUSY or status >= 500:
        raise FetchFailed(f"the image's server answered {status}")
    error: type[ItemError] = ImageForbidden if status in (401, 403) else ImageNotFound
    raise error(f"the image's server answered {status}")
