"""Redis that answers errors instead of vanishing: whatever it says costs latency only."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from idefiq import Client
from idefiq.up import Stack
from tests import servers
from tests.e2e.conftest import Env, Start
from tests.servers import PATIENCE_SECONDS
from workers.broker import INTAKE, UPKEEP, engine_queue

#: Every worker asks for work that no wake told it of so often.
POLL = {"poll_seconds": "0.2"}


@pytest.fixture
def redis_client(redis_server: servers.RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis(port=redis_server.port) as client:
        yield client


def fill(client: redis.Redis) -> None:
    """Memory is full, and everybody has to connect anew."""
    client.config_set("maxmemory", "1mb")
    client.client_kill_filter(_type="normal", skipme=True)


def demote(client: redis.Redis) -> None:
    """What this worker is connected to became a read-only replica in a failover."""
    client.replicaof("127.0.0.1", "1")


def spoil(client: redis.Redis) -> None:
    """The queues hold something that is not a list."""
    for key in (INTAKE, UPKEEP, engine_queue("echo")):
        client.delete(key)
        client.set(key, "x")


def _acl(client: redis.Redis, *rules: str) -> None:
    client.execute_command("ACL", "SETUSER", "default", *rules)  # type: ignore[no-untyped-call]


def lock(client: redis.Redis) -> None:
    """The password was changed, and nobody told the service."""
    client.config_set("requirepass", "another")
    client.client_kill_filter(_type="normal", skipme=True)


def forbid(client: redis.Redis) -> None:
    """An operator has taken away what the service needs."""
    _acl(client, "-lpush", "-brpop", "-publish", "-subscribe")
    client.client_kill_filter(_type="normal", skipme=True)


def litter(client: redis.Redis) -> None:
    """The queues hold messages of another version, of another program, and of nobody."""
    envelope = {"body": "e30=", "headers": {"task": "gone.task", "id": "1"}, "properties": {}}
    for key in (INTAKE, UPKEEP, engine_queue("echo")):
        for junk in (b"\x80\x04junk", b"{}", b"null", b"[[]]", json.dumps(envelope).encode()):
            client.lpush(key, junk)


def promote(client: redis.Redis) -> None:
    _acl(client, "on", "nopass", "~*", "&*", "+@all")
    client.config_set("requirepass", "")
    client.config_set("maxmemory", "0")
    client.replicaof("NO", "ONE")
    client.flushall()


def answered(client: Client, name: str) -> None:
    """A job is answered, whatever Redis says."""
    job = client.submit([{"kind": "generate", "prompt": f"{name} {n}"} for n in range(20)])
    assert client.wait(job, seconds=PATIENCE_SECONDS).counts.succeeded == 20


def processes(stack: Stack) -> dict[str, int]:
    """The id of each process that runs, by name."""
    ids = {service.name: service.process for service in stack.services}
    return {name: process.pid for name, process in ids.items() if process}


@pytest.mark.parametrize("breaks", [fill, demote, spoil, lock, forbid, litter])
def test_a_redis_that_answers_errors_ends_no_process_and_keeps_no_job(
    breaks: Callable[[redis.Redis], None],
    start: Start,
    redis_server: servers.RedisServer,
    redis_client: redis.Redis,
    tmp_path: Path,
) -> None:
    env: Env = {"IDEFIQ_REDIS_URL": redis_server.url}
    with start("echo", env, **POLL) as (stack, client):
        before = processes(stack)
        breaks(redis_client)

        for number in range(3):
            answered(client, f"broken {number}")
        assert stack.restart_ended() == []

        promote(redis_client)
        answered(client, "mended")
        # They consume wakes again: a worker that was only deaf would not be heard.
        for queue in (INTAKE, UPKEEP, engine_queue("echo")):
            redis_client.lpush(queue, "no wake")

        def is_taken() -> bool:
            return not redis_client.exists(INTAKE, UPKEEP, engine_queue("echo"))

        servers.wait_until(is_taken, what="workers that take from their queues again")
        assert stack.restart_ended() == []
        assert processes(stack) == before


def test_a_redis_that_became_a_cluster_ends_no_process_and_keeps_no_job(
    start: Start, redis_server: servers.RedisServer
) -> None:
    """Every key is refused: a cluster without its slots, or one that says where they moved to."""
    with start("echo", {"IDEFIQ_REDIS_URL": redis_server.url}, **POLL) as (stack, client):
        before = processes(stack)
        redis_server.kill()
        redis_server.start("--cluster-enabled", "yes")
        answered(client, "refused")
        redis_server.kill()
        redis_server.start()
        answered(client, "mended")

        assert stack.restart_ended() == []
        assert processes(stack) == before


def test_a_service_that_starts_on_a_read_only_redis_works(
    start: Start, redis_server: servers.RedisServer, redis_client: redis.Redis
) -> None:
    demote(redis_client)

    with start("echo", {"IDEFIQ_REDIS_URL": redis_server.url}, **POLL) as (stack, client):
        before = processes(stack)
        answered(client, "read-only")

        assert stack.restart_ended() == []
        assert processes(stack) == before
