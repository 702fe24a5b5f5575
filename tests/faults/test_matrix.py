"""One fault at a time, against the real service; the number is that of docs/reliability.md."""

import concurrent.futures
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis
from sqlalchemy import text

from db import failpoints, owners
from db.queue import leases, rescues
from db.sql.database import Database
from idefiq import ApiError, Client
from tests import servers
from tests.db import builders
from tests.faults import surroundings
from tests.faults.history import Acknowledged, History, Pictures
from tests.faults.surroundings import Surroundings
from tests.faults.world import World, world
from tests.faults.zygote import Process, Zygote
from tests.servers import PATIENCE_SECONDS
from workers.demo.draw import draw
from workers.notices import channel

#: Quick leases, and a batch that takes a tenth of a second.
QUICK: dict[str, Any] = {
    "lease_seconds": "2",
    "heartbeat_seconds": "0.4",
    "poll_seconds": "0.2",
    "retry_seconds": "0.2",
}


@pytest.fixture
def start(forks: Zygote, tmp_path: Path) -> Callable[..., Any]:
    def started(around: Surroundings, **more: Any) -> Any:
        return world(forks, around, tmp_path / "world", **{**QUICK, **more})

    return started


@contextlib.contextmanager
def submitted(
    service: World, pictures: Pictures, prompt: str, times: int = 20
) -> Iterator[tuple[History, Acknowledged, Client]]:
    """A job of some hundred items that is under way; judged at the end."""
    history = History(service.url)
    with Client(service.url) as client:
        client.upload(list(pictures.paths.values()))
        asked = pictures.ask(list(pictures.paths) * times, prompt)
        made = history.submit(client, asked)
        servers.wait_until(lambda: client.job(made.job.id).counts.succeeded > 0, what="answers")
        yield history, made, client
        assert_nothing_is_wrong(history)


def assert_nothing_is_wrong(history: History) -> None:
    verdict = history.judge()
    assert sum(verdict.numbers.values()) == 0, str(verdict)


def ask(around: Surroundings, sql: str) -> Any:
    """One value from the record."""
    database = Database(around.direct_url, pool=1)
    with database.snapshot() as transaction:
        value = transaction.execute(text(sql)).scalar()
    database.dispose()
    return value


def test_t1_the_demonstration_model_gives_the_same_answers_although_its_workers_are_killed(
    embedded: Surroundings, start: Callable[..., Any], tmp_path: Path
) -> None:
    """A real model, whose answers come of its own arithmetic in each process anew."""
    paths = draw(tmp_path / "scenes", 12)
    slow = {"model": "demo", "batch_items": "4"}
    with start(embedded, engines=1, **slow) as service, Client(service.url) as client:
        items = [{"images": [image]} for image in client.upload(paths)]
        calm = client.wait(client.submit(items))
        disturbed = client.submit(items)
        for done in (1, 5, 9):
            servers.wait_until(lambda: client.job(disturbed.id).counts.succeeded >= done)  # noqa: B023
            service.end(service.of("engine")[0])
            service.start("engine")
        client.wait(disturbed, seconds=PATIENCE_SECONDS)
        said = [
            {result.index: result.answer for result in client.results(job)}
            for job in (calm, disturbed)
        ]

    assert len(said[0]) == len(items)
    assert said[0] == said[1]


def test_t2_a_worker_that_slept_past_its_lease_changes_nothing_when_it_wakes(
    real: Surroundings, start: Callable[..., Any], pictures: Pictures
) -> None:
    """Not on SQLite: a process that sleeps in the middle of writing keeps all others from it."""
    with start(real, engines=0) as service:
        sleeper = service.with_failpoint("engine", "generated", "stop")
        service.wait_until_ready()
        history = History(service.url)
        with Client(service.url) as client:
            client.upload(list(pictures.paths.values()))
            made = history.submit(client, pictures.ask_all("slept"))
            servers.wait_until(lambda: _is_stopped(sleeper.pid), what="the stop")
            service.start("engine")
            client.wait(made.job, seconds=PATIENCE_SECONDS)
            before = {result.index: result.answer for result in client.results(made.job)}
            sleeper.send(signal.SIGCONT)
            service.end(sleeper, signal.SIGTERM)
            after = {result.index: result.answer for result in client.results(made.job)}

        assert before == after
        assert_nothing_is_wrong(history)


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_t3_a_short_sleep_repeats_no_work(
    around: Surroundings, start: Callable[..., Any], pictures: Pictures
) -> None:
    with (
        start(around, engines=1, lease_seconds="30") as service,
        submitted(service, pictures, "nap") as (_, made, client),
    ):
        [engine] = service.of("engine")
        engine.send(signal.SIGSTOP)
        servers.wait_until(lambda: _is_stopped(engine.pid))
        service.start("engine")
        engine.send(signal.SIGCONT)
        client.wait(made.job, seconds=PATIENCE_SECONDS)

        assert ask(around, "SELECT max(attempt) FROM items WHERE stage = 'generate'") <= 2
        assert ask(around, "SELECT sum(rescues) FROM items") == 0


@pytest.mark.parametrize("how", ["hangs", "is slow", "is full"])
def test_t5_t6_a_redis_that_is_no_help_costs_nothing_but_a_poll(
    how: str, embedded: Surroundings, start: Callable[..., Any], pictures: Pictures
) -> None:
    with start(embedded) as service, submitted(service, pictures, how) as (history, _, client):
        if how == "hangs":
            embedded.redis_link.hangs = True
        elif how == "is slow":
            embedded.redis_link.delay = 5.0
        else:
            with redis.Redis(port=embedded.redis.port) as direct:
                direct.config_set("maxmemory", "1")
        began = time.monotonic()
        made = history.submit(client, pictures.ask_all("meanwhile"))
        # Accepted beside Redis: through one that hangs it would take its timeout of 30 s.
        assert time.monotonic() - began < 25
        assert client.wait(made.job, seconds=PATIENCE_SECONDS).is_final
        embedded.redis_link.mend()


def test_t7_connections_of_the_database_that_end_at_any_moment_lose_nothing(
    real: Surroundings, start: Callable[..., Any], pictures: Pictures
) -> None:
    with start(real) as service, submitted(service, pictures, "ended", 30) as (history, _, client):
        for _ in range(15):
            real.terminate_backends()
            history.submit(client, pictures.ask_all("more"))


def test_t9_sqlite_is_whole_after_writers_were_killed_in_the_middle(
    embedded: Surroundings, start: Callable[..., Any], pictures: Pictures
) -> None:
    rng = random.Random(9)
    with start(embedded) as service, submitted(service, pictures, "killed", 30):
        for _ in range(15):
            time.sleep(rng.uniform(0, 0.2))
            service.processes[0 if rng.random() < 0.1 else -1].send(signal.SIGKILL)
            service.replace_dead()

    assert ask(embedded, "PRAGMA integrity_check") == "ok"


@pytest.mark.parametrize("how", ["answers 503", "breaks off", "is away"])
def test_t10_a_store_that_fails_is_charged_to_no_item(
    how: str, real: Surroundings, start: Callable[..., Any], pictures: Pictures, tmp_path: Path
) -> None:
    fresh = Pictures(tmp_path / "fresh", count=12, name=how)
    with start(real) as service, submitted(service, pictures, how, 4) as (history, _, client):
        client.upload(list(fresh.paths.values()))
        made = history.submit(client, fresh.ask(list(fresh.paths) * 8, "meanwhile"))
        link = real.store_link
        assert link
        if how == "answers 503":
            body = b"<Error><Code>SlowDown</Code></Error>"
            link.answer = (
                b"HTTP/1.1 503 Slow Down\r\nContent-Length: %d\r\n\r\n" % len(body) + body,
                0.6,
            )
            link.snap()
        elif how == "breaks off":
            link.drops = 0.5
            link.snap()
        else:
            link.cut()
        time.sleep(2)
        link.mend()
        client.wait(made.job, seconds=PATIENCE_SECONDS)


def test_t11_a_full_disk_is_a_503_and_nothing_that_was_acknowledged_is_lost(
    forks: Zygote, start: Callable[..., Any], pictures: Pictures, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        with surroundings.embedded(disk) as around, start(around) as service:
            history = History(service.url)
            with Client(service.url) as client:
                client.upload(list(pictures.paths.values()))
                client.wait(history.submit(client, pictures.ask_all("before")).job)
                filler = disk / "filler"
                refused = _fill(filler, service.url, client, pictures, history)
                filler.unlink()
                made = history.submit(client, pictures.ask_all("after"))
                client.wait(made.job, seconds=PATIENCE_SECONDS)
            assert_nothing_is_wrong(history)
        assert refused.status == 503
        assert ask(around, "PRAGMA integrity_check") == "ok"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _fill(filler: Path, url: str, client: Client, pictures: Pictures, history: History) -> ApiError:
    """Take the rest of the disk, and submit until that is refused."""
    # Unbuffered: bytes that a full disk refused would be written again as the file is closed.
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 65_536)
    while True:
        asked = pictures.ask(list(pictures.paths) * 10, "meanwhile")
        body = [item.body for item in asked]
        answer = httpx2.post(f"{url}/v1/jobs", json={"items": body}, timeout=PATIENCE_SECONDS)
        if not answer.is_success:
            return ApiError(answer.status_code, answer.json()["code"], answer.json()["detail"])
        history.acknowledged.append(Acknowledged(client.job(answer.json()["id"]), asked))


def test_t12_what_hangs_the_device_is_given_up_alone_and_all_others_are_answered(
    embedded: Surroundings, start: Callable[..., Any], pictures: Pictures
) -> None:
    hanging = {"failpoints": json.dumps({"generating": "hang:0:poison 3"}), "stuck_seconds": "1"}
    with start(embedded, engines=0, **hanging) as service, Client(service.url) as client:
        service.start("engine", "only")
        service.wait_until_ready()
        images = client.upload(
            [path for path in pictures.paths.values() if "broken" not in path.name]
        )
        items = [{"images": [image], "prompt": f"poison {n}"} for n, image in enumerate(images)]
        job = client.submit(items)
        ended: list[Process] = []

        def supervised() -> bool:
            ended.extend(service.replace_dead())
            # What hangs for the last time is given up a moment before its process ends.
            return client.job(job.id).is_final and len(ended) >= 3

        servers.wait_until(supervised, seconds=PATIENCE_SECONDS)
        results = {result.index: result for result in client.results(job.id)}

    assert [index for index, result in results.items() if result.error] == [3]
    assert results[3].error_code == "poison"
    assert [os.waitstatus_to_exitcode(one.status or 0) for one in ended] == [70] * 3


def test_t14_a_child_that_the_kernel_kills_harms_no_other(
    embedded: Surroundings, start: Callable[..., Any], pictures: Pictures, tmp_path: Path
) -> None:
    fresh = Pictures(tmp_path / "fresh", count=10, name="t14")
    with (
        start(embedded) as service,
        submitted(service, pictures, "before", 1) as (history, _, client),
    ):
        [intake] = service.of("intake")
        client.upload(list(fresh.paths.values()))
        history.submit(client, fresh.ask_all("killed"))
        for _ in range(5):
            for child in _children(intake.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            time.sleep(0.3)

        assert intake.status is None


def _children(pid: int) -> list[int]:
    """The processes that check images; billiard's semaphore tracker is not one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            of_pid = path.read_text().rpartition(")")[2].split()[1] == str(pid)
            if of_pid and b"semaphore_tracker" not in path.with_name("cmdline").read_bytes():
                found.append(int(path.parent.name))
    return found


def test_the_children_of_a_killed_intake_are_gone_soon(
    embedded: Surroundings, start: Callable[..., Any], pictures: Pictures
) -> None:
    with start(embedded, engines=1) as service, submitted(service, pictures, "orphans", 1):
        [intake] = service.of("intake")
        children = _children(intake.pid)
        assert children
        service.end(intake)
        service.start("intake")
        servers.wait_until(lambda: not any(Path(f"/proc/{one}").exists() for one in children))


@pytest.mark.parametrize("skew", ["+1h", "-1h"])
def test_t15_a_worker_with_a_wrong_clock_steals_nothing_and_keeps_nothing(
    skew: str, real: Surroundings, start: Callable[..., Any], pictures: Pictures, tmp_path: Path
) -> None:
    if shutil.which("faketime") is None:
        servers.unavailable("a wrong clock", "install the Debian package faketime")
    with (
        start(real, engines=1) as service,
        submitted(service, pictures, skew, 30) as (_, made, client),
    ):
        # faketime itself would stay between, and leave the engine behind when it is stopped.
        told = subprocess.check_output(["faketime", "-f", skew, "env"], text=True).splitlines()
        wrong = dict(
            line.split("=", 1) for line in told if line.startswith(("LD_PRE", "FAKETIME="))
        )
        environment = {**service.env, **wrong, "IDEFIQ_WORKER_NAME": "wrong"}
        command = [sys.executable, "-m", "workers", "engine"]
        with servers.running(command, tmp_path / "wrong.log", env=environment):
            client.wait(made.job, seconds=PATIENCE_SECONDS)

        assert ask(real, "SELECT sum(rescues) FROM items") == 0


def test_t16_fifty_submissions_at_once_under_one_key_are_one_job(
    around: Surroundings, start: Callable[..., Any]
) -> None:
    body = {"items": [{"images": ["blob:" + "ab" * 32]}], "model": "echo"}
    key = {"Idempotency-Key": "one"}
    with start(around, intakes=1, engines=1) as service:
        url = f"{service.url}/v1/jobs"

        def submit(_: int) -> tuple[int, str]:
            answer = httpx2.post(url, json=body, headers=key, timeout=PATIENCE_SECONDS)
            return answer.status_code, answer.json().get("id", "")

        with concurrent.futures.ThreadPoolExecutor(25) as pool:
            answers = set(pool.map(submit, range(50)))
        other = httpx2.post(url, json={**body, "name": "x"}, headers=key, timeout=PATIENCE_SECONDS)

    assert [status for status, _ in answers] == [202]
    assert other.status_code == 422


def test_t18_nothing_that_comes_out_of_redis_is_believed(
    embedded: Surroundings, start: Callable[..., Any], pictures: Pictures
) -> None:
    rng = random.Random(18)
    with start(embedded) as service, submitted(service, pictures, "forged") as (_, made, client):
        with redis.Redis(port=embedded.redis.port) as direct:
            tokens: list[bytes] = []
            for queue in ("intake", "upkeep", "engine.echo"):
                for _ in range(300):
                    token = (
                        json.dumps(_forged(rng)).encode()
                        if rng.random() < 0.5
                        else rng.randbytes(64)
                    )
                    tokens.append(token)
                    direct.lpush(queue, token)
            for _ in range(200):
                direct.publish(channel(made.job.id), rng.choice(tokens))
        client.wait(made.job, seconds=PATIENCE_SECONDS)

        assert {process.status for process in service.processes} == {None}


def _forged(rng: random.Random) -> dict[str, Any]:
    """A message in Celery's form that asks for what no message may."""
    task = rng.choice(["idefiq.wake", "celery.backend_cleanup", "os.system", "idefiq.delete"])
    return {
        "body": "W1siL2V0Yy9wYXNzd2QiXSwge30sIHt9XQ==",
        "content-encoding": "utf-8",
        "content-type": rng.choice(["application/json", "application/x-python-serialize"]),
        "headers": {"task": task, "id": rng.randbytes(8).hex(), "lang": "py", "argsrepr": "()"},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": "x",
            "delivery_info": {"exchange": "", "routing_key": "intake"},
        },
    }


def test_t19_a_rescuer_that_read_long_ago_leaves_what_was_completed_meanwhile(
    postgres_url: str,
) -> None:
    """On SQLite the rescuer is the only writer from its first look on."""
    database = Database(postgres_url)
    job_id = builders.job(database, items=2)
    session = builders.session(database)
    taken = builders.claim(database, session)
    builders.kill(database, session)

    def meanwhile() -> None:
        builders.complete(database, taken[:1])

    failpoints.hook("rescuing", meanwhile)

    with database.transaction() as transaction:
        assert rescues.rescue(transaction) == 1

    assert builders.counts(database, job_id) == {"queued": 1, "succeeded": 1}
    with database.transaction() as transaction:
        assert leases.complete(transaction, [(taken[1], {"text": "too late"})]) == set()
    database.dispose()


def test_t21_workers_that_are_replaced_all_the_time_repeat_nothing(
    around: Surroundings, start: Callable[..., Any], pictures: Pictures
) -> None:
    # Leases last: on a busy machine a heartbeat may come late, which is another test's matter.
    with (
        start(around, lease_seconds="600") as service,
        submitted(service, pictures, "rolling", 40) as (_, made, client),
    ):
        while not (seen := client.job(made.job.id)).is_final:
            engine = service.of("engine")[0]
            service.start("engine")
            # One that had not begun yet ends by the signal itself, and has claimed nothing.
            assert service.end(engine, signal.SIGTERM) in (0, signal.SIGTERM)
            servers.wait_until(
                lambda: client.job(made.job.id).counts.succeeded > seen.counts.succeeded,
                what="more answers",
            )

        finished = "FROM items WHERE stage = 'generate' AND state = 'succeeded'"
        assert ask(around, f"SELECT sum(rescues) + sum(tries) {finished}") == 0


def test_t22_an_engine_that_can_answer_nothing_is_no_hot_loop(
    embedded: Surroundings, start: Callable[..., Any], pictures: Pictures
) -> None:
    breaking = {"failpoints": json.dumps({"generating": "break:0"}), "max_tries": "3"}
    with start(embedded, engines=1, **breaking) as service, Client(service.url) as client:
        good = [path for path in pictures.paths.values() if "broken" not in path.name]
        job = client.wait(
            client.submit([{"images": [one]} for one in client.upload(good)]),
            seconds=PATIENCE_SECONDS,
        )
        codes = {result.error_code for result in client.results(job)}

    assert (job.counts.failed, codes) == (len(good), {"engine_error"})
    assert ask(embedded, "SELECT max(attempt) FROM items") == 4  # intake, and three tries


def test_t23_a_large_job_does_not_delay_another_owners_few_items(
    embedded: Surroundings, start: Callable[..., Any], pictures: Pictures
) -> None:
    with start(embedded, engines=1) as service:
        database = Database(embedded.direct_url)
        keys = {}
        for name in ("large", "small"):
            with database.transaction() as transaction:
                owner = owners.get_or_create(transaction, name)
                keys[name] = owners.create_key(transaction, owner)
        database.dispose()
        with (
            Client(service.url, keys["large"]) as large,
            Client(service.url, keys["small"]) as small,
        ):
            for client in (large, small):
                client.upload(list(pictures.paths.values()))
                client.wait(client.submit([{"images": [ref]} for ref in pictures.paths]))
            whole = large.submit([{"images": [ref]} for ref in list(pictures.paths)[:8] * 120])
            servers.wait_until(lambda: large.job(whole.id).counts.succeeded > 32)
            before = large.job(whole.id).counts.succeeded
            few = small.wait(
                small.submit([{"images": [ref]} for ref in list(pictures.paths)[:8]]),
                seconds=PATIENCE_SECONDS,
            )
            after = large.job(whole.id).counts.succeeded
            large.cancel(whole)

    assert few.counts.succeeded == 8
    assert after - before <= 5 * 16  # three batches, and what ends while we ask
