"""One owner takes all it can of an intake, another has one small image: who comes first."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from db.images.known_images import OK, CheckResult
from db.queue.submissions import NewItem, NewJob
from db.sql.database import Database
from tests import pictures, servers
from tests.db import builders
from tests.workers import parts
from tests.workers.intake.test_intake import outcomes, submit, upload
from workers.intake.check import Checkers
from workers.intake.intake import Intake
from workers.loop import ResidentLoop
from workers.settings import IntakeSettings

DONE = [("generate", None)]
THREADS = 8
#: Bytes of a small image at most.
SMALL = 1_000


@contextmanager
def running(intake: Intake, has_room: threading.Event) -> Iterator[ResidentLoop]:
    """An intake that looks for work when it is woken, and hardly ever by itself."""
    loop = ResidentLoop(intake.run_once, lanes=1, poll_seconds=0.2, name="lane", wakes=has_room)
    loop.start()
    try:
        yield loop
    finally:
        loop.stop()


class Web:
    """A server whose /slow answers come when they are let through."""

    def __init__(self) -> None:
        self.through, self.asked = threading.Event(), list[str]()
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.asked.append(self.path)
                if self.path.startswith("/slow"):
                    web.through.wait()
                body = pictures.plain()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def url(self, path: str, host: int = 1) -> str:
        return f"http://127.0.0.{host}:{self.port}/{path}"

    def close(self) -> None:
        self.through.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web()
    yield made
    made.close()


@pytest.fixture(scope="module")
def checkers() -> Iterator[Checkers]:
    made = Checkers(IntakeSettings(intake_children=1))
    yield made
    made.close()


@pytest.fixture
def has_room() -> threading.Event:
    """What the intake and its loop share."""
    return threading.Event()


@pytest.fixture
def intake(
    database: Database, tmp_path: Path, checkers: Checkers, web: Web, has_room: threading.Event
) -> Iterator[Intake]:
    open_to: dict[str, Any] = {
        "fetch_networks": ["127.0.0.0/8"],
        "fetch_ports": {web.port},
        "fetch_per_host": 2,
    }
    with parts.intake(
        database, tmp_path, checkers, threads=THREADS, has_room=has_room, **open_to
    ) as made:
        yield made
        web.through.set()


def test_an_owner_of_slow_servers_leaves_half_of_the_threads(
    intake: Intake, has_room: threading.Event, database: Database, tmp_path: Path, web: Web
) -> None:
    slow = [web.url(f"slow{n}", host=2 + n) for n in range(100)]
    submit(database, *slow)
    with running(intake, has_room) as loop:
        servers.wait_until(lambda: len(web.asked) == THREADS // 2)
        small = upload(database, tmp_path, pictures.plain("red"), owner="ben")
        job_id = submit(database, small, owner="ben")
        loop.wake()
        servers.wait_until(lambda: outcomes(database, job_id) == DONE)

        assert len(web.asked) == THREADS // 2
        web.through.set()


def test_a_slow_host_holds_as_many_threads_as_it_has_turns(
    intake: Intake, has_room: threading.Event, database: Database, web: Web
) -> None:
    job_id = submit(database, *[web.url(f"slow{n}") for n in range(20)], web.url("fast", host=9))
    with running(intake, has_room):
        servers.wait_until(lambda: outcomes(database, job_id)[-1:] == DONE)
        assert sorted(web.asked) == ["/fast", "/slow0", "/slow1"]

        web.through.set()
        servers.wait_until(lambda: outcomes(database, job_id) == DONE * 21)


def test_an_item_whose_host_is_busy_goes_on_where_it_was(
    intake: Intake, has_room: threading.Event, database: Database, web: Web
) -> None:
    """Of 12 items with two examples each, all on one host, every image is fetched once."""
    web.through.set()
    items = [
        NewItem(
            {
                "images": [web.url(f"{n}")],
                "examples": [{"image": web.url(f"{n}-{k}"), "text": "x"} for k in range(2)],
            }
        )
        for n in range(12)
    ]
    new = NewJob(builders.owner(database), builders.MODEL, {})
    with database.transaction() as transaction:
        job_id = builders.submit(transaction, new, items)

    with running(intake, has_room):
        servers.wait_until(lambda: outcomes(database, job_id) == DONE * 12)

    assert len(web.asked) == len(set(web.asked)) == 36


def test_a_child_checks_one_image_of_another_owner_before_a_small_one(
    intake: Intake,
    has_room: threading.Event,
    database: Database,
    tmp_path: Path,
    checkers: Checkers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ada_checks = threading.Semaphore(0)
    order: list[int] = []

    class Child:
        def do(self, _: str, data: bytes, *__: object) -> CheckResult:
            order.append(len(data))
            if len(data) > SMALL:
                ada_checks.acquire()
            return CheckResult(OK, None, "PNG", 2, 2)

        def is_alive(self) -> bool:
            return True

    real = checkers.idle.get()
    checkers.idle.put(Child())  # type: ignore[arg-type]
    images = [pictures.plain() + b"!" * (SMALL + n) for n in range(40)]
    large = [upload(database, tmp_path, image) for image in images]
    submit(database, *large)
    with running(intake, has_room) as loop:
        servers.wait_until(lambda: len(order) == 1)
        small = upload(database, tmp_path, pictures.plain("red"), owner="ben")
        job_id = submit(database, small, owner="ben")
        loop.wake()
        servers.wait_until(lambda: checkers.waiting() == THREADS // 2)
        ada_checks.release()
        servers.wait_until(lambda: outcomes(database, job_id) == DONE)

        assert [size > SMALL for size in order[:2]] == [True, False]
        ada_checks.release(len(images))
    checkers.idle.get()
    checkers.idle.put(real)
