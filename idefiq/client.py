"""A typed client of the service's HTTP API.

Everything that may be sent twice is: a submission carries an Idempotency-Key, so a retry after a
lost answer finds the job that the first attempt made.
"""

import hashlib
import json
import math
import os
import random
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

from idefiq.types import ApiError, IdefiqError, Job, Model, Result, TooLong

DEFAULT_URL = "http://127.0.0.1:8000"
NDJSON = "application/x-ndjson"
#: Attempts of a request in all, on connection errors and on the statuses below.
ATTEMPTS = 5
RETRIED = frozenset({429, 502, 503, 504})
FIRST_PAUSE_SECONDS = 0.25
#: Files and bytes of one upload request, at most.
UPLOAD_FILES, UPLOAD_BYTES = 100, 16 * 2**20
#: A longer submission is streamed, a line for each item.
WHOLE_ITEMS = 1_000
#: How long one request of `wait` is held by the service.
WAIT_SECONDS = 20

LOOK_SECONDS = 0.2

Item = dict[str, Any]


class Client:
    """Talks to one service.

    Args:
        url: Where the service is; IDEFIQ_URL, or this machine's port 8000, if None.
        api_key: Needed as soon as the service listens beyond loopback; IDEFIQ_API_KEY if None.
        timeout_seconds: Longest wait for the next bytes of an answer.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_seconds: float = 60.0,
    ) -> None:
        url = url or os.environ.get("IDEFIQ_URL") or DEFAULT_URL  # noqa: TID251 - an entry point
        api_key = api_key or os.environ.get("IDEFIQ_API_KEY")  # noqa: TID251 - an entry point
        if not url.startswith(("http://", "https://")):
            raise IdefiqError(f"{url!r} is no URL: it starts with http:// or https://")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx2.Client(base_url=url, headers=headers, timeout=timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # ---- images ---------------------------------------------------------------------

    def upload(self, paths: Iterable[str | Path] | str | Path) -> list[str]:
        """Upload one image or many and return their references, in order.

        Only bytes that the service does not have yet are sent.

        Raises:
            OSError: A file cannot be read.
            ApiError: The service refused one.
        """
        references: list[str] = []
        several = [paths] if isinstance(paths, str | Path) else paths
        for group in _groups([Path(path) for path in several]):
            digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in group]
            known = set(self._json("POST", "/v1/images/known", json=digests))
            missing = {
                digest: path
                for digest, path in zip(digests, group, strict=True)
                if digest not in known
            }
            if missing:
                files = [("file", (_name(path), path.read_bytes())) for path in missing.values()]
                self._json("POST", "/v1/images", files=files)
            references += [f"blob:{digest}" for digest in digests]
        return references

    # ---- jobs -----------------------------------------------------------------------

    def submit(
        self,
        items: Iterable[Item],
        *,
        model: str | None = None,
        defaults: Item | None = None,
        name: str = "",
        idempotency_key: str | None = None,
    ) -> Job:
        """Submit a job and return at once.

        A list is sent again if the connection breaks; any other iterable, and a list of more
        than 1,000, is streamed, with flat memory however long it is.

        Args:
            items: Each {"images": [reference], "prompt" | "question": …, "custom_id": …, …}.
            model: May be left out if the service has only one.
            defaults: Laid under every item, for example {"kind": "vqa"}.
            name: For people.
            idempotency_key: The same key and items make one job; one is made up if left out.

        Raises:
            ApiError: An item cannot be accepted; `errors` names its line and field.
        """
        job: Item = {"name": name, "defaults": defaults or {}}
        if model:
            job["model"] = model
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        if isinstance(items, Sequence) and len(items) <= WHOLE_ITEMS:
            whole = {**job, "items": list(items)}
            return Job.of(self._json("POST", "/v1/jobs", json=whole, headers=headers))
        headers["Content-Type"] = NDJSON
        lines = _lines({"job": job}, items)
        return Job.of(self._json("POST", "/v1/jobs", content=lines, headers=headers))

    def job(self, job_id: str) -> Job:
        """A job as it is now."""
        return Job.of(self._json("GET", f"/v1/jobs/{job_id}"))

    def jobs(self) -> Iterator[Job]:
        """All jobs, newest first, page by page."""
        query: dict[str, Any] = {"limit": 100}
        while True:
            page = self._json("GET", "/v1/jobs", params=query)
            yield from map(Job.of, page["data"])
            if not page["has_more"]:
                return
            query["after"] = page["next"]

    def wait(self, job: Job | str, *, seconds: float | None = None) -> Job:
        """Return the job when it has finished.

        Args:
            job: A job or its id.
            seconds: Patience; None waits for as long as it takes.

        Raises:
            TooLong: Patience ran out. The job goes on.
        """
        job_id = job if isinstance(job, str) else job.id
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            left = WAIT_SECONDS if deadline is None else deadline - time.monotonic()
            held = max(0, min(WAIT_SECONDS, math.ceil(left)))
            asked = time.monotonic()
            headers = {"Prefer": f"wait={held}"}
            found = Job.of(self._json("GET", f"/v1/jobs/{job_id}", headers=headers))
            if found.is_final:
                return found
            if deadline and time.monotonic() >= deadline:
                raise TooLong(f"job {job_id} is {found.state} after {seconds:g} s")
            if time.monotonic() - asked < LOOK_SECONDS:  # a service that grants no wait
                time.sleep(LOOK_SECONDS)

    def results(self, job: Job | str) -> Iterator[Result]:
        """Results so far, in the order in which items finished; of a finished job, all."""
        job_id = job if isinstance(job, str) else job.id
        query: dict[str, Any] = {"limit": 1000}
        while True:
            page = self._json("GET", f"/v1/jobs/{job_id}/results", params=query)
            yield from map(Result.of, page["data"])
            if len(page["data"]) < query["limit"]:
                return
            query["after"] = page["next"]

    def cancel(self, job: Job | str) -> Job:
        """Start no more items of a job; what is answered stays."""
        job_id = job if isinstance(job, str) else job.id
        return Job.of(self._json("POST", f"/v1/jobs/{job_id}/cancel"))

    def models(self) -> list[Model]:
        """The models that the service knows."""
        return [Model.of(body) for body in self._json("GET", "/v1/models")["data"]]

    def is_ready(self) -> bool:
        """Whether the service has a worker with a loaded model."""
        try:
            return self._http.get("/readyz").status_code == 200
        except httpx2.TransportError:
            return False

    # ---- requests -------------------------------------------------------------------

    def _json(self, method: str, path: str, **arguments: Any) -> Any:
        response = self._send(method, path, **arguments)
        if response.is_success:
            return response.json()
        raise _api_error(response)

    def _send(self, method: str, path: str, **arguments: Any) -> httpx2.Response:
        once = isinstance(arguments.get("content"), Iterator)
        for attempt in range(1, ATTEMPTS + 1):
            last = once or attempt == ATTEMPTS
            try:
                response = self._http.request(method, path, **arguments)
            except httpx2.TransportError as error:
                if last:
                    where = self._http.base_url
                    raise IdefiqError(
                        f"{where} cannot be reached ({error}): is the service up, and is this its"
                        " URL?"
                    ) from None
                _pause(attempt, None)
                continue
            if response.status_code not in RETRIED or last:
                return response
            _pause(attempt, response.headers.get("Retry-After"))
        raise AssertionError("the last attempt returns or raises")


def _name(path: Path) -> str:
    """A file's name as text that can be sent."""
    return path.name.encode(errors="replace").decode()


def _pause(attempt: int, retry_after: str | None) -> None:
    """Wait as long as the service says, or for a growing, jittered while."""
    if retry_after and retry_after.isdecimal():
        time.sleep(min(int(retry_after), 60))
    else:
        time.sleep(FIRST_PAUSE_SECONDS * 2**attempt * random.uniform(0.5, 1.0))  # noqa: S311


def _api_error(response: httpx2.Response) -> ApiError:
    try:
        body = response.json()
        return ApiError(response.status_code, body["code"], body["detail"], body.get("errors"))
    except (ValueError, KeyError, TypeError):
        text = response.text[:200] or response.reason_phrase
        return ApiError(response.status_code, "unknown", f"{response.status_code}: {text}")


def _lines(first: Item, items: Iterable[Item]) -> Iterator[bytes]:
    yield json.dumps(first).encode() + b"\n"
    for item in items:
        yield json.dumps(item).encode() + b"\n"


def _groups(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Cut paths into groups that fit one upload request."""
    group: list[Path] = []
    size = 0
    for path in paths:
        file_size = path.stat().st_size
        if group and (len(group) >= UPLOAD_FILES or size + file_size > UPLOAD_BYTES):
            yield group
            group, size = [], 0
        group.append(path)
        size += file_size
    if group:
        yield group
