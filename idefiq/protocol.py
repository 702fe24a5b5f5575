"""Requests and responses of both clients; nothing here touches the network.

Longer than 300 lines because it holds every call of the API once, for both clients.

Client ────┐                    ┌─▶ one request, with what reads its answer
           ├─▶ protocol.Call ───┤
AsyncClient┘                    └─▶ whether and when to send it again
"""

import functools
import json
import math
import os
import random
import ssl
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx2

from idefiq import local_service
from idefiq.audit import AuditEntry, audit_page
from idefiq.errors import ApiError, IdefiqError
from idefiq.queue import Queue
from idefiq.types import ApiKey, Event, Item, Job, Model, Result
from idefiq.usage import Usage

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8000"
NDJSON = "application/x-ndjson"
#: Attempts of a request in all, on connection errors and on the statuses below.
ATTEMPTS = 5
RETRIED = frozenset({429, 502, 503, 504})
FIRST_PAUSE_SECONDS = 0.25
MAX_PAUSE_SECONDS = 60.0
#: Files and bytes of one upload request, at most.
UPLOAD_FILES, UPLOAD_BYTES = 100, 16 * 2**20
#: Files asked about at once, and sent at once.
ASKED_FILES, PARALLEL = 500, 8
#: A longer submission is streamed, a line for each item.
WHOLE_ITEMS = 1_000
RESULTS = 1_000
#: How long one request of `wait` is held by the service.
WAIT_SECONDS = 20
LOOK_SECONDS = 0.2


@functools.cache
def tls() -> ssl.SSLContext:
    """Certificates of all clients of a process: to read them takes a tenth of a second.

    A change of them, or of SSL_CERT_FILE, is seen by the next process.
    """
    return httpx2.create_ssl_context()


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, and how its response is read."""

    method: str
    path: str
    read: Callable[[Any], T]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    #: False if the body can be read only once.
    repeatable: bool = True


@dataclass(frozen=True)
class Where:
    """A service, and how to reach it."""

    url: str
    headers: dict[str, str]

    @classmethod
    def of(cls, url: str | None, api_key: str | None) -> "Where":
        """Build from arguments, or from IDEFIQ_URL and IDEFIQ_API_KEY.

        Without a key, that of a service is taken which this user runs with `idefiq up`.

        Raises:
            IdefiqError: It is no URL.
        """
        url = url or os.environ.get("IDEFIQ_URL") or DEFAULT_URL  # noqa: TID251 - an entry point
        api_key = api_key or os.environ.get("IDEFIQ_API_KEY")  # noqa: TID251 - an entry point
        if not url.startswith(("http://", "https://")):
            raise IdefiqError(f"invalid URL: {url!r}; it must start with http:// or https://")
        api_key = api_key or local_service.find_key(url)
        if api_key and not api_key.isascii():
            raise IdefiqError("the API key contains invalid characters")
        return cls(url, {"Authorization": f"Bearer {api_key}"} if api_key else {})


def add_trace_context(request: httpx2.Request) -> None:
    """Add the trace context of a program that uses OpenTelemetry, as its `traceparent`."""
    if opentelemetry := sys.modules.get("opentelemetry.propagate"):
        opentelemetry.inject(request.headers)


# ---- sending again ------------------------------------------------------------------


def pause_seconds(attempt: int, response: httpx2.Response | None) -> float:
    """Wait before the next attempt: what the service says, or growing with jitter."""
    sent = response.headers.get("Retry-After") if response is not None else None
    if sent and sent.isdecimal():
        return min(float(sent), MAX_PAUSE_SECONDS)
    jitter = random.uniform(0.5, 1.0)  # noqa: S311 - no secret
    return min(FIRST_PAUSE_SECONDS * 2.0**attempt, MAX_PAUSE_SECONDS) * jitter


def is_last(call: Call[Any], attempt: int) -> bool:
    """True if a failed attempt is not repeated."""
    return attempt == ATTEMPTS or not call.repeatable


def unreachable(url: object, error: Exception) -> IdefiqError:
    """Build the error for a connection that cannot be made."""
    return IdefiqError(
        f"{url} cannot be reached ({error}): is the service up, and is this its URL?"
    )


def answer(call: Call[T], response: httpx2.Response) -> T:
    """Read a response.

    Raises:
        ApiError: The service refused the request.
    """
    if response.is_success:
        return call.read(response.json() if response.content else None)
    raise refusal(response)


def refusal(response: httpx2.Response) -> ApiError:
    """Turn an error response into an exception."""
    try:
        body = response.json()
        return ApiError(response.status_code, body["code"], body["detail"], body.get("errors"))
    except (ValueError, KeyError, TypeError):
        text = response.text[:200] or response.reason_phrase
        return ApiError(response.status_code, "unknown", f"{response.status_code}: {text}")


# ---- images -------------------------------------------------------------------------


@dataclass(frozen=True)
class Upload:
    """A file as the service knows it."""

    path: Path
    digest: str
    size: int

    @property
    def reference(self) -> str:
        """Reference of the image in items."""
        return f"blob:{self.digest}"


def known(uploads: Sequence[Upload]) -> Call[set[str]]:
    """Ask which digests need not be sent."""
    digests = sorted({upload.digest for upload in uploads})
    return Call("POST", "/v1/images/known", set, {"json": digests})


def presign(uploads: Sequence[Upload]) -> Call[list[str]]:
    """Request upload URLs, in order; refused with `unsupported` if the store has none."""
    wanted = [{"sha256": upload.digest, "size_bytes": upload.size} for upload in uploads]
    return Call(
        "POST",
        "/v1/images/presign",
        lambda body: [one["url"] for one in body["data"]],
        {"json": wanted},
    )


def upload_group(uploads: Sequence[Upload]) -> Call[None]:
    """Upload some files through the API."""
    files = [("file", (_name(upload.path), upload.path.read_bytes())) for upload in uploads]
    return Call("POST", "/v1/images", lambda _: None, {"files": files})


def image(reference: str) -> Call[None]:
    """Request an image's bytes."""
    return Call("GET", f"/v1/images/{quote(reference, safe=':')}", lambda _: None)


def _name(path: Path) -> str:
    """Turn a file's name into text that can be sent."""
    return path.name.encode(errors="replace").decode()


def distinct(uploads: Iterable[Upload], without: set[str]) -> list[Upload]:
    """Return one upload for each digest, without those to leave out."""
    found = {upload.digest: upload for upload in uploads if upload.digest not in without}
    return list(found.values())


def groups(uploads: Sequence[Upload]) -> Iterator[list[Upload]]:
    """Split uploads into groups that fit one request."""
    group: list[Upload] = []
    size = 0
    for upload in uploads:
        if group and (len(group) >= UPLOAD_FILES or size + upload.size > UPLOAD_BYTES):
            yield group
            group, size = [], 0
        group.append(upload)
        size += upload.size
    if group:
        yield group


# ---- jobs ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Submission:
    """A job without its items.

    Attributes:
        model: May be left out if the service has only one.
        defaults: Laid under every item.
        name: For people.
        key: The same key and items make one job.
        priority: From -10 to 10; each step is worth ten minutes of waiting.
        expires_after_seconds: Items that are not running by then are cancelled.
        pause_on_issues: Share of answers with issues above which the job pauses itself.
        model_changed: "continue" or "pause" if the service serves another variant of the model;
            the service pauses if nothing is said.
    """

    model: str | None = None
    defaults: Item | None = None
    name: str = ""
    key: str | None = None
    priority: int = 0
    expires_after_seconds: int | None = None
    pause_on_issues: float | None = None
    model_changed: str | None = None

    def body(self) -> Item:
        """Body as JSON."""
        job: Item = {"name": self.name, "defaults": self.defaults or {}}
        sent = {
            "model": self.model,
            "priority": self.priority,
            "expires_after_seconds": self.expires_after_seconds,
            "model_changed": self.model_changed,
        }
        job |= {name: value for name, value in sent.items() if value}
        if self.pause_on_issues is not None:
            job["pause_on_issues"] = self.pause_on_issues
        return job

    def headers(self) -> dict[str, str]:
        """Headers that make repeating it safe."""
        return {"Idempotency-Key": self.key or uuid.uuid4().hex}

    def whole(self, **fields: Any) -> Call[Job]:
        """Request with its items, or its source, as one document."""
        arguments = {"json": {**self.body(), **fields}, "headers": self.headers()}
        return Call("POST", "/v1/jobs", Job.of, arguments)

    def streamed(self, content: Any) -> Call[Job]:
        """Request with its items as lines; `content` begins with `first_line`."""
        headers = {**self.headers(), "Content-Type": NDJSON}
        return Call(
            "POST", "/v1/jobs", Job.of, {"content": content, "headers": headers}, repeatable=False
        )

    def first_line(self) -> bytes:
        """First line of a stream."""
        return line({"job": self.body()})


def line(value: Item) -> bytes:
    """One line of a stream."""
    return json.dumps(value).encode() + b"\n"


def job_id(job: Job | str) -> str:
    """Return the id of a job that is given as itself or by its id."""
    return job if isinstance(job, str) else job.id


def job(job: Job | str, *, wait_seconds: int = 0) -> Call[Job]:
    """Request a job as it is now, or when it has finished."""
    headers = {"Prefer": f"wait={wait_seconds}"} if wait_seconds else {}
    return Call("GET", f"/v1/jobs/{job_id(job)}", Job.of, {"headers": headers})


def wait_seconds(left: float | None) -> int:
    """How long one request of `wait` is to be held, given the time left."""
    return WAIT_SECONDS if left is None else max(0, min(WAIT_SECONDS, math.ceil(left)))


def steer(job: Job | str, verb: str) -> Call[Job]:
    """Cancel, pause or resume a job."""
    return Call("POST", f"/v1/jobs/{job_id(job)}/{verb}", Job.of)


def prioritize(job: Job | str, priority: int) -> Call[Job]:
    """Set a job's priority."""
    return Call("PATCH", f"/v1/jobs/{job_id(job)}", Job.of, {"json": {"priority": priority}})


def delete(job: Job | str) -> Call[None]:
    """Delete a finished job."""
    return Call("DELETE", f"/v1/jobs/{job_id(job)}", lambda _: None)


def create_key(
    owner: str, *, note: str, holder: str, scopes: Sequence[str], days: int | None
) -> Call[ApiKey]:
    """Create a key. Never repeated: each time would create another."""
    named = {"owner": owner, "note": note, "holder": holder}
    sent = {**named, "scopes": list(scopes), "days": days}
    body = {name: value for name, value in sent.items() if value}
    return Call("POST", "/v1/keys", ApiKey.of, {"json": body}, repeatable=False)


def keys() -> Call[list[ApiKey]]:
    """List all keys."""
    return Call("GET", "/v1/keys", lambda body: [ApiKey.of(one) for one in body])


def audit(after: str | None) -> Call[tuple[list[AuditEntry], str | None]]:
    """Request a page of the audit, newest first, and the cursor of the next one."""
    params = {"after": after} if after else {}
    return Call("GET", "/v1/audit", audit_page, {"params": params})


def revoke_key(key_id: str) -> Call[None]:
    """Revoke a key."""
    return Call("DELETE", f"/v1/keys/{quote(key_id, safe='')}", lambda _: None)


def queue() -> Call[Queue]:
    """Request the queue of all owners."""
    return Call("GET", "/v1/queue", Queue.of)


def usage(first: date | None, last: date | None, *, all_owners: bool) -> Call[Usage]:
    """Request usage by day."""
    days = {"from": first, "to": last}
    sent = {name: day.isoformat() for name, day in days.items() if day}
    path = "/v1/usage/all" if all_owners else "/v1/usage"
    return Call("GET", path, Usage.of, {"params": sent})


def retry(
    job: Job | str,
    codes: Sequence[str],
    issues: Sequence[str],
    options: Mapping[str, Any] | None,
    key: str | None,
) -> Call[Job]:
    """Submit items of a job as a new one."""
    headers = {"Idempotency-Key": key or uuid.uuid4().hex}
    params = {"code": list(codes), "issue": list(issues)}
    arguments: dict[str, Any] = {"params": params, "headers": headers}
    if options:
        arguments["json"] = {"options": dict(options)}
    return Call("POST", f"/v1/jobs/{job_id(job)}/retry", Job.of, arguments)


@dataclass(frozen=True)
class ListPage(Generic[T]):
    """A page of a list, and where the next one starts."""

    data: list[T]
    after: str | None


def jobs(
    after: str | None, states: Sequence[str] = (), name: str | None = None, model: str | None = None
) -> Call[ListPage[Job]]:
    """Request a page of jobs, newest first."""
    wanted = {"after": after, "state": list(states), "name": name, "model": model}
    query = {"limit": 100, **{field: value for field, value in wanted.items() if value}}
    return Call(
        "GET",
        "/v1/jobs",
        lambda body: ListPage([Job.of(one) for one in body["data"]], body["next"]),
        {"params": query},
    )


def results(
    job: Job | str, after: str | None, issues: Sequence[str] = ()
) -> Call[ListPage[Result]]:
    """Request a page of results; `after` continues it, even from the last so far."""
    query: dict[str, Any] = {"limit": RESULTS, **({"after": after} if after else {})}
    query |= {"issue": list(issues)} if issues else {}
    return Call(
        "GET",
        f"/v1/jobs/{job_id(job)}/results",
        lambda body: ListPage([Result.of(one) for one in body["data"]], body["next"]),
        {"params": query},
    )


def models() -> Call[list[Model]]:
    """Request the models of the service."""
    return Call("GET", "/v1/models", lambda body: [Model.of(one) for one in body["data"]])


# ---- events -------------------------------------------------------------------------


class EventReader:
    """Parses a stream of events, and remembers its position."""

    def __init__(self, last_id: str | None = None) -> None:
        self.last_id = last_id
        self.ended = False
        self._fields: dict[str, str] = {}

    def request(self, job: Job | str) -> tuple[str, str, dict[str, str]]:
        """Method, path and headers of a stream that continues at the position."""
        headers = {"Accept": "text/event-stream"}
        if self.last_id:
            headers["Last-Event-ID"] = self.last_id
        return "GET", f"/v1/jobs/{job_id(job)}/events", headers

    def connected(self, response: httpx2.Response) -> None:
        """Forget an event that was cut off; 204 means that the end was seen."""
        self._fields = {}
        self.ended = response.status_code == 204

    def broke_off(self, error: Exception, attempt: int, url: object) -> None:
        """Accept a broken connection or a busy service for some attempts.

        Raises:
            IdefiqError: It was the last, or the service refused.
        """
        if isinstance(error, ApiError):
            if error.status not in RETRIED or attempt == ATTEMPTS:
                raise error
        elif attempt == ATTEMPTS:
            raise unreachable(url, error) from None

    def take(self, text: str) -> Event | None:
        """Parse a line; returns the event that it completes."""
        if text:
            name, _, value = text.partition(": ")
            self._fields[name] = value
            return None
        fields, self._fields = self._fields, {}
        if "data" not in fields:
            return None
        self.last_id = fields.get("id", self.last_id)
        body, name = json.loads(fields["data"]), fields.get("event", "")
        self.ended = name == "end"
        if name == "item":
            return Event(name, self.last_id, None, Result.of(body))
        return Event(name, self.last_id, Job.of(body), None)
