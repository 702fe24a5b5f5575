"""Callers who leave in the middle of a request."""

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request

from api import errors
from tests import servers
from tests.servers import PATIENCE_SECONDS


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


def test_a_service_whose_port_is_taken_exits_even_beside_a_redis(
    sqlite_url: str, redis_server: servers.RedisServer, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        env = {
            **os.environ,  # noqa: TID251 - for the process
            "IDEFIQ_DATABASE_URL": sqlite_url,
            "IDEFIQ_REDIS_URL": redis_server.url,
            "IDEFIQ_STORE_FOLDER": str(tmp_path / "blobs"),
            "IDEFIQ_PORT": str(taken.getsockname()[1]),
        }
        command = [sys.executable, "-m", "api", "serve"]
        ended = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )

    assert ended.returncode != 0
    assert "address already in use" in ended.stderr
