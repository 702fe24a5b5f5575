"""The guarded HTTP client for images on other people's servers.

Each redirect is checked again from the start, see workers/network.py. No cookie, no compression.
"""

import time
from urllib.parse import urljoin

import httpcore2

from db.vocabulary.errors import (
    FetchFailed,
    ImageForbidden,
    ImageNotFound,
    ImageTooLarge,
    ItemError,
)
from workers import network
from workers.addresses import Refused, checked
from workers.intake.threads import HostTurns
from workers.network import Resolver, TooSlow, resolve
from workers.settings import IntakeSettings

#: No compression: a small body must not become a large one after the size was counted.
_HEADERS = [
    ("User-Agent", "idefiq/0.1 (image fetcher)"),
    ("Accept", "image/*"),
    ("Accept-Encoding", "identity"),
]
_REDIRECTS = (301, 302, 303, 307, 308)
_BUSY = (408, 425, 429)


class HostBusy(Exception):
    """A host has no free turn; fetch again when it has one."""

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.host = host


class Fetcher:
    """Fetches images over HTTP.

    Args:
        settings: Timeouts, sizes, ports and networks.
        hosts: Turns of hosts.
        resolver: Name and port to addresses; the system's unless a test scripts it.
    """

    def __init__(
        self, settings: IntakeSettings, hosts: HostTurns, resolver: Resolver = resolve
    ) -> None:
        self._settings, self._hosts = settings, hosts
        self._deadline = network.Deadline()
        self._pool = network.pool(
            settings.fetch_networks,
            self._deadline,
            most=settings.intake_fetches * 2,
            resolver=resolver,
        )

    def host_of(self, url: str) -> str | None:
        """Return the host that a URL is fetched from first; None if it is not allowed."""
        try:
            return checked(url, self._settings.fetch_ports)[1]
        except Refused:
            return None

    def fetch(self, url: str) -> bytes:
        """Return the bytes behind an http or https URL.

        Raises:
            ImageForbidden: It leads where images may not be fetched from.
            ImageNotFound: The server says that there is nothing.
            ImageTooLarge: More bytes than allowed; the rest is not read.
            FetchFailed: The server is busy, slow, broken or away.
            HostBusy: Its host has no free turn now.
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
        for hop in range(self._settings.fetch_redirects + 1):
            url, host = checked(url, self._settings.fetch_ports)
            if not hop and not self._hosts.take(host):
                raise HostBusy(host)
            # Behind a redirect it waits, or the first host would be asked again and again.
            if hop and not self._hosts.await_turn(host, deadline - time.monotonic()):
                raise TooSlow
            try:
                answer = self._get(url, deadline)
            finally:
                self._hosts.give_back(host)
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
            why = str(error) or type(error).__name__
            raise FetchFailed(f"the image's server failed: {why}") from error
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
