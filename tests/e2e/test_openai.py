"""OpenAI's own client, unmodified, on the whole service with a real model."""

import base64
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openai

from tests import servers
from tests.e2e.conftest import Env, Start
from tests.servers import PATIENCE_SECONDS
from workers.demo import scenes, texts

ENDED = ("completed", "failed", "expired", "cancelled")


def ask(scene: scenes.Scene, number: int) -> list[dict[str, Any]]:
    data = base64.b64encode(scenes.encode(scene, number)).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    text = {"type": "text", "text": "Describe the image."}
    return [{"role": "user", "content": [image, text]}]


def drawn(count: int) -> list[scenes.Scene]:
    rng = random.Random(41)
    return [scenes.sample(rng, canvas=scenes.CANVASES[n % 3]) for n in range(count)]


def ended_batch(client: openai.OpenAI, lines: Sequence[dict[str, Any]]) -> openai.types.Batch:
    """Send a batch of lines, and wait for its end."""
    body = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("lines.jsonl", body), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    servers.wait_until(
        lambda: client.batches.retrieve(batch.id).status in ENDED,
        what="the batch",
        seconds=PATIENCE_SECONDS,
    )
    return client.batches.retrieve(batch.id)


def test_the_life_of_a_batch_and_a_streamed_answer(
    surroundings: Env, start: Start, tmp_path: Path
) -> None:
    made = drawn(12)
    lines = [
        {
            "custom_id": f"scene {number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "gpt-4o-mini", "messages": ask(scene, number), "max_tokens": 300},
        }
        for number, scene in enumerate(made)
    ]
    aliases = json.dumps({"gpt-4o-mini": "demo"})
    with (
        start("demo", surroundings, model_aliases=aliases) as (stack, _),
        openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.api_key) as client,
    ):
        ended = ended_batch(client, lines)
        output = client.files.content(str(ended.output_file_id)).text
        messages: Any = ask(made[0], 0)
        whole = client.chat.completions.create(model="demo", messages=messages)
        pieces = [
            chunk.choices[0].delta.content or ""
            for chunk in client.chat.completions.create(
                model="demo", messages=messages, stream=True
            )
        ]

        several: Any = {"model": "demo", "messages": messages, "n": 3, "temperature": 2.0}
        choices = client.chat.completions.create(**several, seed=5, logit_bias=None)
        parts: dict[int, str] = {}
        for chunk in client.chat.completions.create(**several, seed=5, stream=True):
            for choice in chunk.choices:
                text = choice.delta.content or ""
                parts[choice.index] = parts.get(choice.index, "") + text

    assert [choice.index for choice in choices.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in choices.choices}) > 1
    assert parts == {choice.index: choice.message.content for choice in choices.choices}
    assert choices.usage
    assert choices.usage.completion_tokens > choices.usage.prompt_tokens / 100
    assert ended.status == "completed"
    answers = {
        line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"]
        for line in map(json.loads, output.splitlines())
    }
    right = [answers[f"scene {n}"] == texts.caption(scene) for n, scene in enumerate(made)]
    assert sum(right) >= 9
    assert whole.choices[0].message.content == answers["scene 0"] == "".join(pieces)


def test_words_come_while_a_worker_still_generates(embedded: Env, start: Start) -> None:
    messages: Any = [{"role": "user", "content": "What is on the table, and why?"}]
    with (
        # An item takes two seconds, in four steps.
        start("echo", embedded, echo_batch_seconds="64") as (stack, _),
        openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.api_key) as client,
    ):
        stream = client.chat.completions.create(model="echo", messages=messages, stream=True)
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream]

    assert "".join(pieces) == "echo, not a model: What is on the table, and why?"
    assert next(piece for piece in pieces if piece) != "".join(pieces)


def test_without_redis_an_answer_takes_longer_and_is_the_same(embedded: Env, start: Start) -> None:
    [scene] = drawn(1)
    messages: Any = ask(scene, 0)
    nowhere = {**embedded, "IDEFIQ_REDIS_URL": "redis://127.0.0.1:1/0"}
    with (
        start("demo", nowhere) as (stack, _),
        openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.api_key) as client,
    ):
        whole = client.chat.completions.create(model="demo", messages=messages)
        stream = client.chat.completions.create(model="demo", messages=messages, stream=True)
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream]

    assert whole.choices[0].message.content == "".join(pieces)
