"""Notices, through a real Redis."""

import json
import threading

import redis

from tests import servers
from tests.servers import PATIENCE_SECONDS
from workers.notices import Notices, channel, plain_url


def test_of_several_for_one_job_only_the_last_text_is_sent(
    redis_server: servers.RedisServer,
) -> None:
    with redis.Redis.from_url(redis_server.url) as client, client.pubsub() as heard:
        heard.subscribe(channel("job_a"))
        heard.get_message(timeout=PATIENCE_SECONDS)
        notices = Notices(redis_server.url)
        for said in ("two", "two kittens", "two kittens in grass"):
            notices.stream_text("job_a", said)
        notices.changed("job_a", "job_b")
        texts = []
        while "two kittens in grass" not in texts:
            message = heard.get_message(timeout=PATIENCE_SECONDS)
            assert message
            texts.append(json.loads(message["data"]).get("text"))

    assert len(texts) <= 3


def test_without_redis_nothing_blocks_and_later_ones_arrive(
    redis_server: servers.RedisServer,
) -> None:
    redis_server.kill()
    notices = Notices(redis_server.url)
    told = threading.Event()

    def tell() -> None:
        for number in range(1_000):
            notices.stream_text("job_a", f"{number}")
        told.set()

    threading.Thread(target=tell).start()
    assert told.wait(PATIENCE_SECONDS)
    redis_server.start()
    with redis.Redis.from_url(redis_server.url) as client, client.pubsub() as heard:
        heard.subscribe(channel("job_a"))

        def arrived() -> bool:
            notices.stream_text("job_a", "back")
            message = heard.get_message(ignore_subscribe_messages=True, timeout=0.1)
            return message is not None and json.loads(message["data"]) == {"text": "back"}

        servers.wait_until(arrived, what="a notice")


def test_a_socket_is_spelled_as_redis_wants_it() -> None:
    assert plain_url("redis+socket:///run/redis.sock") == "unix:///run/redis.sock"
    assert plain_url("rediss://host:1/0") == "rediss://host:1/0"
