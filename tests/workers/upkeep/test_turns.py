"""How owners take turns in upkeep: pages, and who comes next."""

import functools
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from db.blobs.folder import FolderStore
from db.blobs.store import results_key
from db.queue import jobs
from db.sql.database import Database
from db.vocabulary.errors import StorageError
from db.vocabulary.states import JobState
from tests import servers
from tests.db import builders
from tests.workers import parts
from tests.workers.upkeep.test_upkeep import line, spool, state
from workers.upkeep import outputs as outputs_module
from workers.upkeep import turns as turns_module
from workers.upkeep import upkeep as upkeep_module
from workers.upkeep.turns import TURN_COST, WAITING, Pages, Turns, UpkeepStep

ADA, BEN = 1, 2


class Work:
    """Steps of pages, and the order in which their pages are done."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self._left: dict[tuple[int, str], int] = {}
        self._held: set[str] = set()
        self._costs: dict[str, int] = {}
        self.after: dict[int, Callable[[], None]] = {}

    def add(
        self, owner_id: int, name: str, pages: int, *, is_held: bool = False, cost: int = TURN_COST
    ) -> None:
        self._left[owner_id, name] = pages
        self._costs[name] = cost
        if is_held:
            self._held.add(name)

    def look(self) -> list[UpkeepStep]:
        return [self._step(*one) for one in self._left]

    def _step(self, owner_id: int, name: str) -> UpkeepStep:
        kind = name.rstrip("0123456789")

        def act() -> Pages:
            for number in itertools.count(1):
                self.done.append(name if kind not in self._held else f"{name} page {number}")
                self._left[owner_id, name] -= 1
                if after := self.after.pop(len(self.done), None):
                    after()
                if not self._left[owner_id, name]:
                    del self._left[owner_id, name]
                    return
                yield None

        return UpkeepStep(
            owner_id, kind, name, act, cost=self._costs[name], is_held=name in self._held
        )


def run(look: Callable[[], list[UpkeepStep]]) -> bool:
    return Turns(look, threading.Event()).run()


def test_one_page_is_done_before_the_work_of_another_owner_that_comes_in_between() -> None:
    work = Work()
    for number in range(8):
        work.add(ADA, f"stream{number}", 50)
    work.after[7] = lambda: work.add(BEN, "line", 1)

    run(work.look)

    assert work.done[:7] == ["stream0"] * 7
    assert work.done.index("line") == 7


def test_owners_take_turns_and_so_do_the_steps_of_each() -> None:
    work = Work()
    for owner_id, name in ((ADA, "import1"), (ADA, "import2"), (BEN, "settle"), (ADA, "list")):
        work.add(owner_id, name, 5)

    run(work.look)

    assert work.done[:6] == ["import1", "settle", "import2", "settle", "list", "settle"]


def test_small_steps_share_a_turn() -> None:
    work = Work()
    for number in range(6):
        work.add(ADA, f"small{number}", 1, cost=TURN_COST // 3)
    work.add(BEN, "page", 1)

    run(work.look)

    assert work.done == ["small0", "small1", "small2", "page", "small3", "small4", "small5"]


def test_what_is_held_goes_on_where_it_was_and_ends_before_the_next_of_its_kind() -> None:
    work = Work()
    for name in ("write1", "write2"):
        work.add(ADA, name, 2, is_held=True)
    work.add(BEN, "import", 3)

    run(work.look)

    order = [name.removesuffix(" page 1").removesuffix(" page 2") for name in work.done]
    assert order == ["write1", "import", "write1", "import", "write2", "import", "write2"]


def test_of_what_is_held_an_owner_has_one_at_a_time() -> None:
    began: list[str] = []

    def upload(name: str) -> Pages:
        began.append(name)
        while True:
            yield WAITING

    steps = [
        UpkeepStep(ADA, "write", name, functools.partial(upload, name), cost=60, is_held=True)
        for name in ("1", "2", "3")
    ]
    turns = Turns(lambda: steps, threading.Event())

    for _ in range(5):
        assert turns.run() is False

    assert began == ["1"]


def test_small_steps_that_keep_coming_do_not_starve_a_large_one_of_their_owner() -> None:
    work, numbers = Work(), itertools.count()
    work.add(ADA, "import", 4)

    def look() -> list[UpkeepStep]:
        work.add(ADA, f"small{next(numbers)}", 1, cost=60)
        return work.look()

    turns = Turns(look, threading.Event())
    for _ in range(4):
        turns.run()

    assert work.done.count("import") == 4


def test_no_page_is_begun_when_the_worker_stops() -> None:
    work, stopping = Work(), threading.Event()
    for owner_id in range(50):
        work.add(owner_id, f"import{owner_id}", 3)
    work.after[2] = stopping.set

    Turns(work.look, stopping).run()

    assert len(work.done) == 2


def test_a_step_that_fails_gives_its_turn_to_the_next_of_its_owner() -> None:
    tried: list[str] = []

    def fail() -> None:
        tried.append("fails")
        raise StorageError("away")

    def work() -> None:
        tried.append("works")
        steps.pop()

    steps = [UpkeepStep(ADA, "first", "1", fail), UpkeepStep(ADA, "second", "2", work)]

    assert run(lambda: steps) is False
    assert tried == ["fails", "works", "fails"]


def test_a_step_that_waits_keeps_nobody_busy() -> None:
    looks = itertools.count()

    def wait() -> Iterator[str | None]:
        while True:
            yield WAITING

    def look() -> list[UpkeepStep]:
        next(looks)
        return [UpkeepStep(ADA, "upload", "1", wait, is_held=True)]  # type: ignore[arg-type]

    assert run(look) is False
    assert next(looks) == 1


def test_a_line_of_one_owner_waits_for_a_page_of_anothers_streams(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (upkeep_module, turns_module):
        monkeypatch.setattr(module, "TURN_COST", 2)
    monkeypatch.setattr(upkeep_module, "PAGE", 2)
    large = [spool(database, tmp_path, [line(0)] * 40, key=f"1/spool/{n}") for n in range(3)]
    upkeep = parts.upkeep(database, tmp_path)
    pages: list[str] = []
    small: list[jobs.Job] = []
    import_page = upkeep.import_job

    def counted(job: jobs.Job) -> Pages:
        for page in import_page(job):
            pages.append(job.id)
            if len(pages) == 5:
                small.append(spool(database, tmp_path, [line(0)], key="2/spool/b", owner="ben"))
            yield page
        pages.append(job.id)

    monkeypatch.setattr(upkeep, "import_job", counted)

    upkeep.run_once()

    assert pages.index(small[0].id) == 5
    assert state(database, small[0]) is JobState.QUEUED
    while upkeep.run_once():
        pass
    assert [state(database, job) for job in large] == [JobState.QUEUED] * 3
    upkeep.close()


def test_a_large_file_of_results_is_stored_while_others_have_their_turns(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs_module, "SPOOL_BYTES", 10)
    monkeypatch.setattr(upkeep_module, "SPOOL_BYTES", 10)
    job_id, owner_id = builders.job(database, items=3), builders.owner(database)
    builders.complete(database, builders.claim(database, builders.session(database)))
    upkeep = parts.upkeep(database, tmp_path)

    servers.wait_until(lambda: upkeep.run_once() or is_written(database, owner_id, job_id))
    servers.wait_until(lambda: is_written(database, owner_id, job_id) or upkeep.run_once())

    stored = FolderStore(tmp_path / "blobs").get(results_key(owner_id, job_id))
    assert stored.count(b"\n") == 3
    upkeep.close()


def is_written(database: Database, owner_id: int, job_id: str) -> bool:
    with database.snapshot() as transaction:
        return jobs.get(transaction, owner_id, job_id).results_key is not None
