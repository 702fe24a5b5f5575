"""What breaks, and what users see of it: nothing but a delay."""

import signal
from pathlib import Path

from idefiq import Client, Job
from idefiq.supervised import Service
from idefiq.up import Stack
from tests import pictures, servers
from tests.e2e.conftest import Env, Start, another_engine
from tests.servers import PATIENCE_SECONDS

#: A batch of sixteen takes a fifth of a second, so that something is always under way.
PACE = {"batch_items": "16", "echo_batch_seconds": "0.2"}


def submit(client: Client, folder: Path, count: int) -> Job:
    paths = []
    for number in range(8):
        path = folder / f"{number}.png"
        path.write_bytes(pictures.plain(size=(8, 8 + number)))
        paths.append(path)
    images = client.upload(paths)
    return client.submit([{"images": [images[n % 8]], "custom_id": str(n)} for n in range(count)])


def engine_of(stack: Stack) -> Service:
    [engine] = [service for service in stack.services if service.name.startswith("engine")]
    return engine


def until_some_are_done(client: Client, job: Job, count: int = 16) -> None:
    servers.wait_until(
        lambda: (
            client.job(job.id).counts.succeeded >= count and client.job(job.id).counts.running > 0
        ),
        what="the first answers",
    )


def assert_whole(client: Client, job: Job, count: int) -> None:
    """Every item has exactly one result, and it is an answer."""
    assert (job.state, job.counts.succeeded) == ("succeeded", count)
    results = list(client.results(job))
    assert sorted(result.index for result in results) == list(range(count))
    assert all(result.answer for result in results)


def test_items_of_a_killed_engine_complete_elsewhere_once_its_lease_is_over(
    real: Env, start: Start, tmp_path: Path
) -> None:
    with (
        start("echo", real, **PACE) as (stack, client),
        another_engine(stack, "elsewhere", tmp_path / "elsewhere.log"),
    ):
        servers.wait_until(lambda: [model.workers for model in client.models()] == [2], what="both")
        job = submit(client, tmp_path, 320)
        until_some_are_done(client, job)

        process = engine_of(stack).process
        assert process
        process.kill()
        job = client.wait(job, seconds=PATIENCE_SECONDS)

        assert_whole(client, job, 320)


def test_an_engine_that_is_started_again_frees_its_items_at_once(
    embedded: Env, start: Start, tmp_path: Path
) -> None:
    with start("echo", embedded, lease_seconds="600", **PACE) as (stack, client):
        job = submit(client, tmp_path, 160)
        until_some_are_done(client, job)

        process = engine_of(stack).process
        assert process
        process.kill()
        process.wait()
        servers.wait_until(
            lambda: any("starting it again" in line for line in stack.restart_ended())
        )
        servers.wait_until(lambda: (stack.restart_ended(), client.job(job.id).is_final)[1])

        assert_whole(client, client.job(job.id), 160)


def test_a_stopped_engine_finishes_its_batch_and_hands_back_the_rest(
    surroundings: Env, start: Start, tmp_path: Path
) -> None:
    with start("echo", surroundings, **PACE) as (stack, client):
        job = submit(client, tmp_path, 160)
        until_some_are_done(client, job)
        engine = engine_of(stack)
        assert engine.process

        engine.process.send_signal(signal.SIGTERM)
        status = engine.process.wait(PATIENCE_SECONDS)
        counts = client.job(job.id).counts

        assert (status, counts.running, counts.failed) == (0, 0, 0)
        assert counts.queued > 0
        servers.wait_until(lambda: (stack.restart_ended(), client.job(job.id).is_final)[1])
        assert_whole(client, client.job(job.id), 160)


def test_emptying_redis_costs_nothing_but_a_poll(
    real: Env, start: Start, redis_server: servers.RedisServer, tmp_path: Path
) -> None:
    with start("echo", real, **PACE) as (_, client):
        job = submit(client, tmp_path, 160)
        while not client.job(job.id).is_final:
            redis_server.empty()

        assert_whole(client, client.wait(job, seconds=PATIENCE_SECONDS), 160)


def test_jobs_are_accepted_and_answered_while_redis_is_down(
    real: Env, start: Start, redis_server: servers.RedisServer, tmp_path: Path
) -> None:
    with start("echo", real, **PACE) as (_, client):
        redis_server.kill()
        job = submit(client, tmp_path, 64)
        assert_whole(client, client.wait(job, seconds=PATIENCE_SECONDS), 64)

        redis_server.start()
        job = submit(client, tmp_path, 64)
        assert_whole(client, client.wait(job, seconds=PATIENCE_SECONDS), 64)


def test_a_service_that_starts_without_redis_works(
    real: Env, start: Start, redis_server: servers.RedisServer, tmp_path: Path
) -> None:
    redis_server.kill()

    with start("echo", real, **PACE) as (_, client):
        job = submit(client, tmp_path, 32)

        assert_whole(client, client.wait(job, seconds=PATIENCE_SECONDS), 32)
