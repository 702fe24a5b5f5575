"""Chat completions: jobs of one item, claimed before all others of their owner, and awaited.

submit ─▶ wait (notices, or a look each second) ─▶ the answer, whole
                                               ─▶ or as it is said, piece by piece

A caller who goes away cancels the job. Streamed pieces come through Redis and may be lost; the
rest of the text, and what is final, come from the database.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool

from api.acceptance import accept, open_checker
from api.errors import envelope
from api.events import HEADERS, MEDIA_TYPE, PING_SECONDS, event
from api.services import CurrentOwner, Parts, Services
from api.watch import Watched
from db.openai.chat_request import ChatIn
from db.queue import jobs, results
from db.queue.submissions import NewJob
from db.vocabulary.errors import RequestError, StorageError
from db.vocabulary.items import Item
from db.vocabulary.openai_rendering import (
    called,
    completion,
    completion_id,
    error_body,
    failure,
    finish_reason,
    tool_call,
    usage,
)
from db.vocabulary.states import SourceApi
from db.vocabulary.structures import ANY_TOOL

router = APIRouter(prefix="/v1/chat", tags=["OpenAI"])

#: How often it is asked whether the caller is still there.
CALLER_CHECK_SECONDS = 1.0
#: How long the head of a streamed answer waits for an early error, which then has a status.
HEAD_SECONDS = 2.0
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ChatIn"}}},
    }
}


@router.post("/completions", openapi_extra=_BODY)
async def complete(request: Request, services: Parts, owner: CurrentOwner) -> Response:
    """Answer a chat completion: queued, but before all jobs and batches of its owner."""
    body = await request.body()
    try:
        # Images in it make it long: not on the loop that all others share.
        sent = await run_in_threadpool(from_json, body)
    except ValueError as error:
        raise RequestError(f"the body is not JSON: {error}") from error
    asked, job_id, model = await run_in_threadpool(_submit, services, owner.id, sent)
    call = ChatCall(services, owner.id, job_id, model, asked)
    if asked.stream:
        return await call.streamed(usage_too=_usage(asked))
    return await call.whole(request)


def _usage(asked: ChatIn) -> bool:
    return bool(asked.stream_options and asked.stream_options.include_usage)


def _submit(services: Services, owner_id: int, sent: Any) -> tuple[ChatIn, str, str]:
    asked = ChatIn.from_body(sent)
    checker = open_checker(services, owner_id, asked.model)
    items = asked.items(checker, sent)
    checker.images.store()
    job = NewJob(owner_id, checker.card.name, checker.defaults, source_api=SourceApi.CHAT)
    return asked, accept(services, job, items), job.model


class ChatCall:
    """A caller that waits for the choices of one answer."""

    def __init__(
        self, services: Services, owner_id: int, job_id: str, model: str, asked: ChatIn
    ) -> None:
        self._services, self._owner_id = services, owner_id
        self._job_id, self._model = job_id, model
        self._tool, self._choices = asked.tool, asked.n or 1
        self._created = int(time.time())

    async def whole(self, request: Request) -> Response:
        """Return the answer as one document."""
        deadline = time.monotonic() + self._services.settings.max_chat_seconds
        async with self._services.watch.watching(self._job_id) as watched:
            while True:
                news = watched.event
                if _finished(watched):
                    return await self._answered()
                if time.monotonic() > deadline or await request.is_disconnected():
                    self._cancel()
                    return _too_long(self._services.settings.max_chat_seconds)
                await watched.news(news, CALLER_CHECK_SECONDS)

    async def streamed(self, *, usage_too: bool) -> Response:
        """Stream the answer; an error before the first token is a document of its own."""
        chunks = self._chunks(usage_too=usage_too)
        first = await anext(chunks)
        if isinstance(first, Response):
            return first

        async def rest() -> AsyncIterator[bytes]:
            async with contextlib.aclosing(chunks):
                yield first
                async for chunk in chunks:
                    assert isinstance(chunk, bytes)
                    yield chunk

        return StreamingResponse(rest(), media_type=MEDIA_TYPE, headers=HEADERS)

    async def _early_error(self, watched: Watched) -> Response | None:
        """Wait a little for an error, which can still have a status of its own."""
        deadline = time.monotonic() + HEAD_SECONDS
        while not (_finished(watched) or watched.text) and time.monotonic() < deadline:
            await watched.news(watched.event, CALLER_CHECK_SECONDS)
        if not _finished(watched):
            return None
        failed = _first_failed(await self._items())
        return _failed(failed) if failed else None

    async def _chunks(self, *, usage_too: bool) -> AsyncGenerator[bytes | Response]:
        """Return an early error, or yield the pieces of the answer."""
        sent_text, ended = "", False
        deadline = time.monotonic() + self._services.settings.max_chat_seconds
        try:
            async with self._services.watch.watching(self._job_id) as watched:
                if error := await self._early_error(watched):
                    ended = True
                    yield error
                    return
                yield self._chunk(0, self._head(0))
                while not _finished(watched) and time.monotonic() < deadline:
                    news = watched.event
                    if len(watched.text) > len(sent_text) and self._is_streamed:
                        yield self._chunk(0, self._delta(watched.text[len(sent_text) :]))
                        sent_text = watched.text
                    elif not _finished(watched) and not await watched.news(news, PING_SECONDS):
                        yield b": still here\n\n"
                ended = _finished(watched)
            async for piece in self._rest(sent_text, usage_too=usage_too):
                yield piece
        finally:
            if not ended:
                self._cancel()

    async def _rest(self, sent_text: str, *, usage_too: bool) -> AsyncIterator[bytes]:
        """Yield what the database has beyond the streamed text, and the end."""
        items = await self._items()
        answers = [item.answer for item in items if item.answer is not None]
        if failed := _first_failed(items):
            _, body = _failure(failed)
            yield event(json.dumps(body))
            return
        if not answers[0]["text"].startswith(sent_text):
            body = error_body(
                "the answer was generated again with another text; retry", "restarted", status=500
            )
            yield event(json.dumps(body))
            return
        for number, answer in enumerate(answers):
            if number:
                yield self._chunk(number, self._head(number))
            if self._tool == ANY_TOOL and (call := called(answer)):
                one = tool_call(call[0], self._job_id, number, call[1])
                yield self._chunk(number, {"tool_calls": [{"index": 0, **one}]})
            elif rest := answer["text"][0 if number else len(sent_text) :]:
                yield self._chunk(number, self._delta(rest))
            yield self._chunk(number, {}, finish_reason=finish_reason(answer))
        if usage_too:
            yield self._event({"choices": [], "usage": usage(answers)})
        yield event("[DONE]")

    @property
    def _is_streamed(self) -> bool:
        """True if the text comes as it is said: that of one choice, which is no unnamed call."""
        return self._choices == 1 and self._tool != ANY_TOOL

    def _head(self, number: int) -> dict[str, Any]:
        """Return the delta that begins a choice."""
        if self._tool in (None, ANY_TOOL):
            return {"role": "assistant", "content": ""}
        call = {"index": 0, **tool_call(self._tool, self._job_id, number)}
        return {"role": "assistant", "content": None, "tool_calls": [call]}

    def _delta(self, text: str) -> dict[str, Any]:
        if self._tool in (None, ANY_TOOL):
            return {"content": text}
        return {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}

    def _chunk(self, number: int, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": number, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._event({"choices": [choice]})

    def _event(self, fields: dict[str, Any]) -> bytes:
        head = {
            "id": completion_id(self._job_id),
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
        }
        return event(json.dumps({**head, **fields}, ensure_ascii=False))

    async def _answered(self) -> Response:
        items = await self._items()
        if failed := _first_failed(items):
            return _failed(failed)
        return JSONResponse(completion(items, self._job_id, self._model))

    async def _items(self) -> list[Item]:
        def look() -> list[Item]:
            with self._services.database.snapshot() as transaction:
                return [
                    results.get(transaction, self._owner_id, self._job_id, number)
                    for number in range(self._choices)
                ]

        return await run_in_threadpool(look)

    def _cancel(self) -> None:
        """Cancel the job in the background: the caller's own task may be cancelled already."""

        def cancel() -> None:
            try:
                with self._services.database.transaction() as transaction:
                    jobs.cancel(transaction, self._owner_id, self._job_id)
            except StorageError:
                pass  # the answer is discarded

        asyncio.get_running_loop().run_in_executor(None, cancel)


def _finished(watched: Watched) -> bool:
    return watched.job is not None and watched.job.finished_at is not None


def _first_failed(items: list[Item]) -> Item | None:
    return next((item for item in items if item.answer is None), None)


def _failure(item: Item) -> tuple[int, dict[str, Any]]:
    if item.error_code is None:
        return 400, error_body("the request was cancelled", "cancelled", status=400)
    return failure(item)


def _failed(item: Item) -> JSONResponse:
    status, body = _failure(item)
    # What was tried several times here need not be sent again.
    return JSONResponse(body, status, headers={"x-should-retry": "false"})


def _too_long(seconds: float) -> JSONResponse:
    return envelope(504, "timeout", f"no answer within {seconds:g} s; the request was cancelled")
