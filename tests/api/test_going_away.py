"""Callers who leave in the middle of a request."""

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI, Request

from api import errors


def test_a_caller_who_goes_away_in_the_middle_of_a_request_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app, sent = FastAPI(), list[Any]()
    errors.install(app)

    @app.post("/")
    async def read(request: Request) -> None:
        await request.body()

    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}
    asyncio.run(app(scope, receive, send))

    assert [message.get("status") for message in sent] == [499, None]
    assert caplog.records == []
