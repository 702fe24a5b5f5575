"""The typed client of the HTTP API; idefiq/aio.py has the same for asyncio.

Longer than 300 lines because it is one list of methods, with their documentation.

Everything that may be sent twice is: a submission carries an Idempotency-Key, so a retry after a
lost answer finds the job that the first attempt made.
"""

import errno
import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2

from idefiq import local_service, protocol, reviews
from idefiq.audit import AuditEntry
from idefiq.errors import ApiError, WaitTimeout
from idefiq.protocol import Call, ListPage, Submission, Upload, Where
from idefiq.queue import Queue
from idefiq.reviews import Review
from idefiq.types import ApiKey, Event, Item, Job, Model, Result
from idefiq.usage import Usage

T = TypeVar("T")


class Client:
    """Client of one service. Thread-safe.

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
        where = Where.of(url, api_key)
        self._http = httpx2.Client(
            base_url=where.url,
            headers=where.headers,
            timeout=timeout_seconds,
            verify=protocol.tls(),
            trust_env=not local_service.is_loopback(
                where.url
            ),  # no proxy is asked for this machine
            event_hooks={"request": [protocol.add_trace_context]},
        )
        # To the store itself, which must not see the key.
        self._store = httpx2.Client(timeout=timeout_seconds, verify=protocol.tls())
        self._store_takes_uploads = True

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
        self._store.close()

    # ---- images ---------------------------------------------------------------------

    def upload(self, paths: Iterable[str | Path] | str | Path) -> list[str]:
        """Upload one or more images and return their references, in order.

        Only bytes that the service does not have yet are sent, several files at once, and
        straight to the blob store where it can take them.

        Raises:
            OSError: A file cannot be read.
            ApiError: The service refused one.
        """
        rest = iter([paths] if isinstance(paths, str | Path) else paths)
        references: list[str] = []
        with ThreadPoolExecutor(protocol.PARALLEL) as pool:
            while some := [Path(path) for path in islice(rest, protocol.ASKED_FILES)]:
                uploads = list(pool.map(read, some))
                known = self._do(protocol.known(uploads))
                self._send_files(pool, protocol.distinct(uploads, known))
                references += [upload.reference for upload in uploads]
        return references

    def _send_files(self, pool: ThreadPoolExecutor, uploads: Sequence[Upload]) -> None:
        if uploads and self._store_takes_uploads:
            try:
                urls = self._do(protocol.presign(uploads))
            except ApiError as error:
                if error.code != "unsupported":
                    raise
                self._store_takes_uploads = False
            else:
                list(pool.map(self._put, urls, uploads))
                return
        list(pool.map(self._post, protocol.groups(uploads)))

    def _put(self, url: str, upload: Upload) -> None:
        call = Call("PUT", url, _nothing, {"content": upload.path.read_bytes()})
        response = self._send(self._store, call)
        if not response.is_success:
            raise protocol.refusal(response)

    def _post(self, group: Sequence[Upload]) -> None:
        self._do(protocol.upload_group(group))

    # ---- jobs -----------------------------------------------------------------------

    def submit(  # noqa: PLR0913 - keywords, as users write them
        self,
        items: Iterable[Item] | str,
        *,
        model: str | None = None,
        defaults: Item | None = None,
        name: str = "",
        idempotency_key: str | None = None,
        priority: int = 0,
        expires_after_seconds: int | None = None,
        pause_on_issues: float | None = None,
        model_changed: str | None = None,
    ) -> Job:
        """Submit a job and return at once.

        A list is sent again if the connection breaks; any other iterable, and a list of more
        than 1,000, is streamed, with flat memory however long it is.

        Args:
            items: Each {"images": [reference], "prompt" | "question": …, "custom_id": …, …}; or
                `s3://bucket/prefix`, whose images the service lists itself.
            model: May be left out if the service has only one.
            defaults: Laid under every item, for example {"kind": "vqa"}.
            name: For people.
            idempotency_key: The same key and items make one job; one is made up if left out.
            priority: From -10 to 10, each step worth ten minutes of waiting among your own jobs.
            expires_after_seconds: Items that are not running by then are cancelled.
            pause_on_issues: Pause the job when a larger share of its answers has issues.
            model_changed: "continue" if other variants of the model may answer as well; by default
                the job pauses when the one that answered first is not served any more.

        Raises:
            ApiError: An item cannot be accepted; `errors` names its line and field.
        """
        job = Submission(
            model,
            defaults,
            name,
            idempotency_key,
            priority,
            expires_after_seconds,
            pause_on_issues,
            model_changed,
        )
        if isinstance(items, str):
            return self._do(job.whole(source=items))
        if isinstance(items, Sequence) and len(items) <= protocol.WHOLE_ITEMS:
            return self._do(job.whole(items=list(items)))
        return self._do(job.streamed(_lines(job, items)))

    def job(self, job_id: str, *, wait_seconds: int = 0) -> Job:
        """Return a job as it is now, or when it has finished if that is within `wait_seconds`."""
        return self._do(protocol.job(job_id, wait_seconds=wait_seconds))

    def jobs(
        self, *, states: Sequence[str] = (), name: str | None = None, model: str | None = None
    ) -> Iterator[Job]:
        """Yield all jobs, newest first, or those of these states, of a name or of a model."""
        after: str | None = None
        while True:
            page = self._do(protocol.jobs(after, states, name, model))
            yield from page.data
            if (after := page.after) is None:
                return

    def wait(self, job: Job | str, *, seconds: float | None = None) -> Job:
        """Return the job when it has finished.

        Args:
            job: A job or its id.
            seconds: Patience; None waits for as long as it takes.

        Raises:
            WaitTimeout: Patience ran out. The job goes on.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            asked = time.monotonic()
            held = protocol.wait_seconds(deadline - asked if deadline else None)
            found = self._do(protocol.job(job, wait_seconds=held))
            if found.is_final:
                return found
            if deadline and time.monotonic() >= deadline:
                raise WaitTimeout(f"job {found.id} is {found.state} after {seconds:g} s")
            if time.monotonic() - asked < protocol.LOOK_SECONDS:  # a service that grants no wait
                time.sleep(protocol.LOOK_SECONDS)

    def results(self, job: Job | str, *, issues: Sequence[str] = ()) -> Iterator[Result]:
        """Yield results so far, in the order in which items finished; of a finished job, all.

        Args:
            job: A job or its id.
            issues: Only answers with one of these issues; "any" stands for all issues.
        """
        after: str | None = None
        while True:
            page = self._do(protocol.results(job, after, issues))
            yield from page.data
            if len(page.data) < protocol.RESULTS:
                return
            after = page.after

    def results_page(self, job: Job | str, after: str | None = None) -> ListPage[Result]:
        """Return up to 1,000 results after a page's `after`."""
        return self._do(protocol.results(job, after))

    def events(self, job: Job | str, *, last_id: str | None = None) -> Iterator[Event]:
        """Yield events of a job as they happen, until its end.

        A connection that breaks is made again and goes on after the last event.

        Args:
            job: A job or its id.
            last_id: Go on after this event, from `Event.id`.
        """
        reader, attempt = protocol.EventReader(last_id), 1
        while True:
            try:
                for event in self._stream(reader, job):
                    attempt = 1
                    yield event
            except (httpx2.TransportError, ApiError) as error:
                reader.broke_off(error, attempt, self._http.base_url)
            if reader.ended:
                return
            time.sleep(protocol.pause_seconds(attempt, None))
            attempt += 1

    def _stream(self, reader: protocol.EventReader, job: Job | str) -> Iterator[Event]:
        """Events of one connection."""
        method, path, headers = reader.request(job)
        with self._http.stream(method, path, headers=headers) as response:
            if not response.is_success:
                response.read()
                raise protocol.refusal(response)
            reader.connected(response)
            for line in response.iter_lines():
                if event := reader.take(line):
                    yield event

    def cancel(self, job: Job | str) -> Job:
        """Cancel a job. Answers so far are kept."""
        return self._do(protocol.steer(job, "cancel"))

    def pause(self, job: Job | str) -> Job:
        """Pause a job: start no more of its items until it is resumed."""
        return self._do(protocol.steer(job, "pause"))

    def resume(self, job: Job | str) -> Job:
        """Resume a paused job."""
        return self._do(protocol.steer(job, "resume"))

    def prioritize(self, job: Job | str, priority: int) -> Job:
        """Set a job's priority among its owner's, from -10 to 10."""
        return self._do(protocol.prioritize(job, priority))

    def delete(self, job: Job | str) -> None:
        """Delete a finished job with its items and results."""
        self._do(protocol.delete(job))

    def retry(
        self,
        job: Job | str,
        *,
        codes: Sequence[str] = (),
        issues: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Submit items of a finished job as a new job: the failed ones, unless told otherwise.

        Args:
            job: A job or its id.
            codes: Failed items with one of these error codes.
            issues: Answered items with one of these issues; "any" stands for all issues.
            options: Generation options laid over those of each item; one of sampling, such as
                temperature, turns sampling on.
            idempotency_key: With the same key it is done once; one is made up if left out.
        """
        return self._do(protocol.retry(job, codes, issues, options, idempotency_key))

    def reviews(
        self,
        job: Job | str | None = None,
        *,
        states: Sequence[str] = (),
        custom_ids: Sequence[str] = (),
        order: str = "page",
    ) -> Iterator[Review]:
        """Yield drafts of alternative text, undecided first.

        Args:
            job: Only of this job.
            states: Only those: unreviewed, accepted, edited, decorative, rejected.
            custom_ids: Only of items with these, at most 100.
            order: "page", or "confidence" for the least certain first.
        """
        after: str | None = None
        while True:
            wanted = reviews.wanted(job, states, custom_ids, order)
            page = self._do(reviews.page(wanted, after))
            yield from page.data
            if (after := page.after) is None:
                return

    def review(self, job: Job | str, index: int) -> Review:
        """Return one draft with its history."""
        return self._do(reviews.get(job, index))

    def decide(
        self,
        review: Review,
        action: str,
        *,
        text: str | None = None,
        long_description: str | None = None,
        language: str | None = None,
        reviewer: str | None = None,
    ) -> Review:
        """Decide about a draft.

        Args:
            review: As it was seen; if somebody else has decided since, it is a conflict.
            action: "accept", "edit", "decorative", "reject" or "undo".
            text: With "edit": the new text.
            long_description: With "edit".
            language: With "edit": what the text is in, such as German.
            reviewer: A name for the history.

        Raises:
            ApiError: `review_conflict`, or there is nothing to undo.
        """
        call = reviews.decide(
            review.job,
            review.index,
            action,
            revision=review.revision,
            text=text,
            long_description=long_description,
            language=language,
            reviewer=reviewer,
        )
        return self._do(call)

    def image(self, reference: str) -> bytes:
        """Return the bytes of an image that the service has checked.

        Raises:
            ApiError: There is none.
        """
        response = self._send(self._http, protocol.image(reference))
        if not response.is_success:
            raise protocol.refusal(response)
        return response.content

    def models(self) -> list[Model]:
        """List the models of the service."""
        return self._do(protocol.models())

    def create_api_key(
        self,
        owner: str,
        *,
        note: str = "",
        holder: str = "",
        scopes: Sequence[str] = (),
        days: int | None = None,
    ) -> ApiKey:
        """Create an API key; for operators. Its `key` is shown this once.

        Args:
            owner: Whose jobs it is for; made if there is none of that name.
            note: For people.
            holder: The person or program that gets it; reviews and the audit show this name.
            scopes: Some of submit, read, review, metrics and admin; the first three if left out.
            days: Valid for so long; for ever if left out.
        """
        return self._do(
            protocol.create_key(owner, note=note, holder=holder, scopes=scopes, days=days)
        )

    def api_keys(self) -> list[ApiKey]:
        """List all API keys without their secrets; for operators."""
        return self._do(protocol.keys())

    def revoke_api_key(self, key_id: str) -> None:
        """Revoke an API key at once; for operators."""
        self._do(protocol.revoke_key(key_id))

    def audit(self) -> Iterator[AuditEntry]:
        """Yield who made or revoked keys, changed limits or deleted what, newest first.

        For operators.
        """
        after = None
        while True:
            page, after = self._do(protocol.audit(after))
            yield from page
            if after is None:
                return

    def queue(self) -> Queue:
        """Return what waits of all owners, who works, and what was done today; for operators."""
        return self._do(protocol.queue())

    def usage(
        self, first: date | None = None, last: date | None = None, *, all_owners: bool = False
    ) -> Usage:
        """Return what was used, by day and model.

        Args:
            first: First day, in UTC; 30 days back if left out.
            last: Last day, included; today if left out.
            all_owners: Of all owners; for operators.
        """
        return self._do(protocol.usage(first, last, all_owners=all_owners))

    def is_ready(self) -> bool:
        """True if the service has a worker with a loaded model."""
        try:
            return self._http.get("/readyz").status_code == 200
        except httpx2.TransportError:
            return False

    # ---- requests -------------------------------------------------------------------

    def _do(self, call: Call[T]) -> T:
        return protocol.answer(call, self._send(self._http, call))

    def _send(self, http: httpx2.Client, call: Call[Any]) -> httpx2.Response:
        for attempt in range(1, protocol.ATTEMPTS + 1):
            response = None
            try:
                response = http.request(call.method, call.path, **call.arguments)
            except httpx2.TransportError as error:
                if protocol.is_last(call, attempt):
                    raise protocol.unreachable(http.base_url or call.path, error) from None
            if response is not None and (
                response.status_code not in protocol.RETRIED or protocol.is_last(call, attempt)
            ):
                return response
            time.sleep(protocol.pause_seconds(attempt, response))
        raise AssertionError("the last attempt returns or raises")


def read(path: Path) -> Upload:
    """Return a file's digest and size."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not (size := file.tell()):
            raise OSError(errno.ENODATA, "the file is empty", str(path))
        return Upload(path, digest, size)


def _nothing(_: Any) -> None: ...


def _lines(job: Submission, items: Iterable[Item]) -> Iterator[bytes]:
    yield job.first_line()
    for item in items:
        yield protocol.line(item)
