"""Chat completions through the official client, whole and streamed."""

import json
import socket
import threading
from typing import Any

import httpx2
import openai
import pytest
from sqlalchemy import text

from api import events
from db.owners import LOCAL_OWNER
from db.queue import jobs
from db.sql.database import Database
from db.vocabulary.errors import ImageUnreadable
from db.vocabulary.states import JobState, SourceApi
from tests import servers
from tests.db import builders
from tests.played import Played
from tests.served import Serve
from workers.notices import Notices

MESSAGES: Any = [{"role": "user", "content": "What is this?"}]


def chats(record: Database) -> list[jobs.Job]:
    """The conversations that were asked for."""
    with record.snapshot() as transaction:
        ids = transaction.execute(text("SELECT id FROM jobs WHERE origin = 'chat'")).scalars()
        return jobs.several(transaction, list(ids))


def test_an_answer_is_waited_for(client: openai.OpenAI, played: Played) -> None:
    with played.running("two kittens"):
        found = client.chat.completions.create(model="echo", messages=MESSAGES, max_tokens=300)

    [choice] = found.choices
    assert (choice.message.content, choice.finish_reason) == ("two kittens", "stop")
    assert found.usage
    assert (found.usage.prompt_tokens, found.usage.total_tokens) == (10, 12)
    assert openai.types.chat.ChatCompletion.model_validate(found.to_dict())


def test_the_fingerprint_of_the_system_changes_with_the_model(
    client: openai.OpenAI, played: Played
) -> None:
    found = []
    for variant in ("a" * 12, "b" * 12):
        played.serve(variant)
        with played.running():
            found.append(client.chat.completions.create(model="echo", messages=MESSAGES))

    assert [each.system_fingerprint for each in found] == ["fp_" + "a" * 12, "fp_" + "b" * 12]


def test_a_streamed_answer_is_the_same_without_redis(client: openai.OpenAI, played: Played) -> None:
    with played.running("two kittens"):
        chunks = list(
            client.chat.completions.create(
                model="echo",
                messages=MESSAGES,
                stream=True,
                stream_options={"include_usage": True},
            )
        )

    said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert said == "two kittens"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage
    assert chunks[-1].usage.total_tokens == 12


def test_words_arrive_before_the_answer_is_complete(
    serve: Serve, offered: Database, redis_server: servers.RedisServer, played: Played
) -> None:
    http = serve(offered.url, redis_url=redis_server.url)
    notices = Notices(redis_server.url)
    with openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="none") as client:
        stream = client.chat.completions.create(model="echo", messages=MESSAGES, stream=True)
        said: list[str] = []
        taken = _told(played, notices, "two", stream, said)
        assert [job.state for job in chats(offered)] == [JobState.RUNNING]
        played.complete(taken, "two kittens in grass")
        said += [chunk.choices[0].delta.content or "" for chunk in stream]

    assert "".join(said) == "two kittens in grass"
    assert said[:2] == ["", "two"]


def _told(played: Played, notices: Notices, word: str, stream: Any, said: list[str]) -> list[Any]:
    """Claim, and say the beginning of the answer until it has arrived."""
    arrived = threading.Event()

    def read() -> None:
        while "".join(said) != word:
            said.append(next(stream).choices[0].delta.content or "")
        arrived.set()

    taken = played.claim()
    reader = threading.Thread(target=read)
    reader.start()

    def told() -> bool:
        notices.stream_text(taken[0].job_id, word)
        return arrived.is_set()

    servers.wait_until(told, what="the first word")
    reader.join()
    return taken


def test_an_interactive_item_is_claimed_before_all_jobs(
    client: openai.OpenAI, http: httpx2.Client, offered: Database, played: Played
) -> None:
    builders.job(offered, items=3, owner_id=builders.owner(offered, LOCAL_OWNER))
    waiting = threading.Thread(
        target=lambda: client.chat.completions.create(model="echo", messages=MESSAGES)
    )
    waiting.start()
    servers.wait_until(lambda: bool(chats(offered)), what="the conversation")

    [first] = played.claim(limit=1)
    played.complete([first])
    waiting.join()

    assert first.source_api is SourceApi.CHAT
    assert [job["counts"]["total"] for job in http.get("/v1/jobs").json()["data"]] == [3]


def _post(path: str, body: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def test_a_caller_who_goes_away_cancels(
    http: httpx2.Client, offered: Database, played: Played
) -> None:
    asked: list[str] = []
    for stream in (False, True):
        body = json.dumps({"model": "echo", "messages": MESSAGES, "stream": stream})
        with socket.create_connection((http.base_url.host, http.base_url.port or 80)) as caller:
            caller.sendall(_post("/v1/chat/completions", body))
            servers.wait_until(lambda: len(chats(offered)) > len(asked), what="the conversation")
            asked.append(body)

    servers.wait_until(
        lambda: [job.cancelled_at is not None for job in chats(offered)] == [True, True],
        what="both to be cancelled",
    )
    assert played.step() == 0


def test_patience_has_a_limit_that_the_operator_sets(serve: Serve, offered: Database) -> None:
    http = serve(offered.url, max_chat_seconds=1)

    response = http.post("/v1/chat/completions", json={"model": "echo", "messages": MESSAGES})

    assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("stream", [False, True])
def test_an_item_that_fails_is_an_error_with_a_status(
    client: openai.OpenAI, played: Played, stream: bool
) -> None:
    failing = threading.Thread(
        target=lambda: servers.wait_until(
            lambda: _fail_one(played), what="the conversation to fail"
        )
    )
    failing.start()

    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="echo", messages=MESSAGES, stream=stream)
    failing.join()

    assert (caught.value.code, caught.value.body) == (
        "image_unreadable",
        {
            "message": "no image",
            "type": "invalid_request_error",
            "param": None,
            "code": "image_unreadable",
        },
    )


def _fail_one(played: Played) -> bool:
    taken = played.claim()
    played.fail(taken, ImageUnreadable("no image"))
    return bool(taken)


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"model": "gpt-9"}, openai.NotFoundError, "model"),
        ({"n": 2}, openai.BadRequestError, "n"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        (
            {"messages": [{"role": "assistant", "content": "x"}]},
            openai.BadRequestError,
            "messages",
        ),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused_at_once(
    client: openai.OpenAI,
    fields: dict[str, Any],
    error: type[openai.APIStatusError],
    param: str,
) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{"model": "echo", "messages": MESSAGES, **fields})

    assert caught.value.param == param


def test_an_event_is_one_block() -> None:
    assert events.event('{"a": 1}', name="item", number="7") == (
        b'event: item\nid: 7\ndata: {"a": 1}\n\n'
    )
