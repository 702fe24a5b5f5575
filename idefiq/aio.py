"""The client for asyncio: the methods of `Client`, without a thread that waits.

Longer than 300 lines because it is one list of methods, with their documentation.

Only files are read in threads.
"""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from datetime import date
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2

from idefiq import local_service, protocol, reviews
from idefiq.audit import AuditEntry
from idefiq.client import read
from idefiq.errors import ApiError, WaitTimeout
from idefiq.protocol import Call, ListPage, Submission, Upload, Where
from idefiq.queue import Queue
from idefiq.reviews import Review
from idefiq.types import ApiKey, Event, Item, Job, Model, Result
from idefiq.usage import Usage

T = TypeVar("T")


class AsyncClient:
    """Client of one service for asyncio; see `idefiq.Client`.

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
        self._http = httpx2.AsyncClient(
            base_url=where.url,
            headers=where.headers,
            timeout=timeout_seconds,
            verify=protocol.tls(),
            trust_env=not local_service.is_loopback(
                where.url
            ),  # no proxy is asked for this machine
            event_hooks={"request": [_add_trace_context]},
        )
        self._store = httpx2.AsyncClient(timeout=timeout_seconds, verify=protocol.tls())
        self._store_takes_uploads = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()
        await self._store.aclose()

    # ---- images ---------------------------------------------------------------------

    async def upload(self, paths: Iterable[str | Path] | str | Path) -> list[str]:
        """Upload images and return their references; see `Client.upload`."""
        rest = iter([paths] if isinstance(paths, str | Path) else paths)
        references: list[str] = []
        while some := [Path(path) for path in islice(rest, protocol.ASKED_FILES)]:
            uploads = await asyncio.to_thread(_read_all, some)
            known = await self._do(protocol.known(uploads))
            await self._send_files(protocol.distinct(uploads, known))
            references += [upload.reference for upload in uploads]
        return references

    async def _send_files(self, uploads: Sequence[Upload]) -> None:
        at_once = asyncio.Semaphore(protocol.PARALLEL)

        async def put(url: str, upload: Upload) -> None:
            async with at_once:
                content = await asyncio.to_thread(upload.path.read_bytes)
                call: Call[None] = Call("PUT", url, lambda _: None, {"content": content})
                response = await self._send(self._store, call)
            if not response.is_success:
                raise protocol.refusal(response)

        async def post(group: Sequence[Upload]) -> None:
            async with at_once:
                await self._do(await asyncio.to_thread(protocol.upload_group, group))

        if uploads and self._store_takes_uploads:
            try:
                urls = await self._do(protocol.presign(uploads))
            except ApiError as error:
                if error.code != "unsupported":
                    raise
                self._store_takes_uploads = False
            else:
                await _all(map(put, urls, uploads))
                return
        await _all(map(post, protocol.groups(uploads)))

    # ---- jobs -----------------------------------------------------------------------

    async def submit(  # noqa: PLR0913 - keywords, as users write them
        self,
        items: Iterable[Item] | AsyncIterable[Item] | str,
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
        """Submit a job and return at once; see `Client.submit`."""
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
            return await self._do(job.whole(source=items))
        if isinstance(items, Sequence) and len(items) <= protocol.WHOLE_ITEMS:
            return await self._do(job.whole(items=list(items)))
        return await self._do(job.streamed(_lines(job, items)))

    async def job(self, job_id: str, *, wait_seconds: int = 0) -> Job:
        """Return a job as it is now, or when it has finished if that is within `wait_seconds`."""
        return await self._do(protocol.job(job_id, wait_seconds=wait_seconds))

    async def jobs(
        self, *, states: Sequence[str] = (), name: str | None = None, model: str | None = None
    ) -> AsyncIterator[Job]:
        """Yield all jobs, newest first; see `Client.jobs`."""
        after: str | None = None
        while True:
            page = await self._do(protocol.jobs(after, states, name, model))
            for job in page.data:
                yield job
            if (after := page.after) is None:
                return

    async def wait(self, job: Job | str, *, seconds: float | None = None) -> Job:
        """Return the job when it has finished; see `Client.wait`."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            asked = time.monotonic()
            held = protocol.wait_seconds(deadline - asked if deadline else None)
            found = await self._do(protocol.job(job, wait_seconds=held))
            if found.is_final:
                return found
            if deadline and time.monotonic() >= deadline:
                raise WaitTimeout(f"job {found.id} is {found.state} after {seconds:g} s")
            if time.monotonic() - asked < protocol.LOOK_SECONDS:
                await asyncio.sleep(protocol.LOOK_SECONDS)

    async def results(self, job: Job | str, *, issues: Sequence[str] = ()) -> AsyncIterator[Result]:
        """Yield results so far, in the order in which items finished; see `Client.results`."""
        after: str | None = None
        while True:
            page = await self._do(protocol.results(job, after, issues))
            for result in page.data:
                yield result
            if len(page.data) < protocol.RESULTS:
                return
            after = page.after

    async def results_page(self, job: Job | str, after: str | None = None) -> ListPage[Result]:
        """Return up to 1,000 results after a page's `after`."""
        return await self._do(protocol.results(job, after))

    async def events(self, job: Job | str, *, last_id: str | None = None) -> AsyncIterator[Event]:
        """Yield events of a job as they happen, until its end; see `Client.events`."""
        reader, attempt = protocol.EventReader(last_id), 1
        while True:
            try:
                async for event in self._stream(reader, job):
                    attempt = 1
                    yield event
            except (httpx2.TransportError, ApiError) as error:
                reader.broke_off(error, attempt, self._http.base_url)
            if reader.ended:
                return
            await asyncio.sleep(protocol.pause_seconds(attempt, None))
            attempt += 1

    async def _stream(self, reader: protocol.EventReader, job: Job | str) -> AsyncIterator[Event]:
        """Events of one connection."""
        method, path, headers = reader.request(job)
        async with self._http.stream(method, path, headers=headers) as response:
            if not response.is_success:
                await response.aread()
                raise protocol.refusal(response)
            reader.connected(response)
            async for line in response.aiter_lines():
                if event := reader.take(line):
                    yield event

    async def cancel(self, job: Job | str) -> Job:
        """Cancel a job. Answers so far are kept."""
        return await self._do(protocol.steer(job, "cancel"))

    async def pause(self, job: Job | str) -> Job:
        """Pause a job: start no more of its items until it is resumed."""
        return await self._do(protocol.steer(job, "pause"))

    async def resume(self, job: Job | str) -> Job:
        """Resume a paused job."""
        return await self._do(protocol.steer(job, "resume"))

    async def prioritize(self, job: Job | str, priority: int) -> Job:
        """Set a job's priority among its owner's, from -10 to 10."""
        return await self._do(protocol.prioritize(job, priority))

    async def delete(self, job: Job | str) -> None:
        """Delete a finished job with its items and results."""
        await self._do(protocol.delete(job))

    async def retry(
        self,
        job: Job | str,
        *,
        codes: Sequence[str] = (),
        issues: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Submit items of a finished job as a new job; see `Client.retry`."""
        return await self._do(protocol.retry(job, codes, issues, options, idempotency_key))

    async def reviews(
        self,
        job: Job | str | None = None,
        *,
        states: Sequence[str] = (),
        custom_ids: Sequence[str] = (),
        order: str = "page",
    ) -> AsyncIterator[Review]:
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
            page = await self._do(reviews.page(wanted, after))
            for review in page.data:
                yield review
            if (after := page.after) is None:
                return

    async def review(self, job: Job | str, index: int) -> Review:
        """Return one draft with its history."""
        return await self._do(reviews.get(job, index))

    async def decide(
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
        return await self._do(call)

    async def image(self, reference: str) -> bytes:
        """Return the bytes of an image that the service has checked.

        Raises:
            ApiError: There is none.
        """
        response = await self._send(self._http, protocol.image(reference))
        if not response.is_success:
            raise protocol.refusal(response)
        return response.content

    async def models(self) -> list[Model]:
        """List the models of the service."""
        return await self._do(protocol.models())

    async def create_api_key(
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
        return await self._do(
            protocol.create_key(owner, note=note, holder=holder, scopes=scopes, days=days)
        )

    async def api_keys(self) -> list[ApiKey]:
        """List all API keys without their secrets; for operators."""
        return await self._do(protocol.keys())

    async def revoke_api_key(self, key_id: str) -> None:
        """Revoke an API key at once; for operators."""
        await self._do(protocol.revoke_key(key_id))

    async def audit(self) -> AsyncIterator[AuditEntry]:
        """Yield the entries of the audit, newest first; see Client.audit."""
        after = None
        while True:
            page, after = await self._do(protocol.audit(after))
            for entry in page:
                yield entry
            if after is None:
                return

    async def queue(self) -> Queue:
        """Return the queue of all owners; see Client.queue."""
        return await self._do(protocol.queue())

    async def usage(
        self, first: date | None = None, last: date | None = None, *, all_owners: bool = False
    ) -> Usage:
        """Return what was used, by day and model; see Client.usage."""
        return await self._do(protocol.usage(first, last, all_owners=all_owners))

    async def is_ready(self) -> bool:
        """True if the service has a worker with a loaded model."""
        try:
            return (await self._http.get("/readyz")).status_code == 200
        except httpx2.TransportError:
            return False

    # ---- requests -------------------------------------------------------------------

    async def _do(self, call: Call[T]) -> T:
        return protocol.answer(call, await self._send(self._http, call))

    async def _send(self, http: httpx2.AsyncClient, call: Call[Any]) -> httpx2.Response:
        for attempt in range(1, protocol.ATTEMPTS + 1):
            response = None
            try:
                response = await http.request(call.method, call.path, **call.arguments)
            except httpx2.TransportError as error:
                if protocol.is_last(call, attempt):
                    raise protocol.unreachable(http.base_url or call.path, error) from None
            if response is not None and (
                response.status_code not in protocol.RETRIED or protocol.is_last(call, attempt)
            ):
                return response
            await asyncio.sleep(protocol.pause_seconds(attempt, response))
        raise AssertionError("the last attempt returns or raises")


def _read_all(paths: Sequence[Path]) -> list[Upload]:
    return [read(path) for path in paths]


async def _add_trace_context(request: httpx2.Request) -> None:
    protocol.add_trace_context(request)


async def _all(calls: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all at once; when one fails, the others are given up."""
    tasks = [asyncio.create_task(call) for call in calls]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def _lines(
    job: Submission, items: Iterable[Item] | AsyncIterable[Item]
) -> AsyncIterator[bytes]:
    yield job.first_line()
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield protocol.line(item)
    else:
        for item in items:
            yield protocol.line(item)
