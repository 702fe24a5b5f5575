"""The record as a state machine: any order of what workers, users and time may do.

Hypothesis plays long random lives against a model in memory. What the record says must be what
the model says after every step, on both databases.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from db.queue import jobs, leases, rescues, results, sessions
from db.queue.lease import Failure, Lease, RetryPolicy
from db.sql.database import Database
from db.vocabulary.errors import EngineError, ImageUnreadable, RequestError, StorageError
from db.vocabulary.states import FINAL_JOB_STATES
from tests.db import builders

POLICY = RetryPolicy(max_attempts=2, first_wait_seconds=50.0)
LEASE_SECONDS = 100


@dataclass
class ModelItem:
    """An item as it has to be: who has it, under which attempt, and what became of it."""

    job: str
    state: str = "queued"
    holder: str | None = None
    attempt: int = 0
    tries: int = 0
    deaths: int = 0
    told: str | None = None


@dataclass
class ModelJob:
    """A job as it has to be."""

    paused: bool = False
    cancelled: bool = False


@dataclass
class Model:
    """All that the record may know."""

    items: dict[int, ModelItem] = field(default_factory=dict)
    jobs: dict[str, ModelJob] = field(default_factory=dict)
    #: Until when each session lives, by the model's clock.
    sessions: dict[str, float] = field(default_factory=dict)
    clock: float = 0.0

    def holds(self, lease: Lease) -> ModelItem | None:
        """The item, if this very attempt still has it."""
        item = self.items[lease.item_id]
        ours = item.state == "running" and item.attempt == lease.claim_number
        return item if ours else None


class Record(RuleBasedStateMachine):
    """See the module; `database` is set by the test."""

    database: Database
    open_sessions: Bundle[str] = Bundle("open_sessions")
    made_jobs: Bundle[str] = Bundle("made_jobs")
    claimed: Bundle[list[Lease]] = Bundle("claimed")
    reserved: Bundle[tuple[list[Lease], dict[str, int]]] = Bundle("reserved")

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.workers = 0
        #: What somebody has read of each job who always goes on after the last number.
        self.read: dict[str, dict[int, int]] = {}
        with self.database.transaction() as transaction:
            for table in ("items", "jobs", "sessions", "reservations"):
                transaction.execute(text(f"DELETE FROM {table}"))

    @contextmanager
    def _step(self) -> Iterator[Any]:
        with self.database.transaction() as transaction:
            yield transaction

    # ---- users ----------------------------------------------------------------------

    @rule(target=made_jobs, count=st.integers(1, 4), priority=st.integers(-2, 2))
    def submit(self, count: int, priority: int) -> str:
        return self._submit(count, priority)

    def _submit(self, count: int, priority: int) -> str:
        job_id = builders.job(self.database, items=count, priority=priority)
        self.model.jobs[job_id] = ModelJob()
        with self.database.snapshot() as transaction:
            ids = transaction.execute(
                text("SELECT id FROM items WHERE job_id = :job"), {"job": job_id}
            ).scalars()
            self.model.items.update({item_id: ModelItem(job_id) for item_id in ids})
        return job_id

    @rule(job_id=made_jobs, paused=st.sampled_from([True, False, False]))
    def pause(self, job_id: str, paused: bool) -> None:
        owner_id = builders.owner(self.database)
        try:
            with self._step() as transaction:
                jobs.pause(transaction, owner_id, job_id, paused=paused)
        except RequestError:
            assert self.model.jobs[job_id].cancelled or not self._open_items(job_id)
        else:
            self.model.jobs[job_id].paused = paused

    @rule(job_id=made_jobs, really=st.sampled_from([True, False, False, False]))
    def cancel(self, job_id: str, really: bool) -> None:
        if not really:
            return  # or most lives would be over soon
        owner_id = builders.owner(self.database)
        with self._step() as transaction:
            jobs.cancel(transaction, owner_id, job_id)
        if self._open_items(job_id):
            self.model.jobs[job_id].cancelled = True

    @rule(job_id=made_jobs, limit=st.integers(1, 3))
    def settle(self, job_id: str, limit: int) -> None:
        with self._step() as transaction:
            settleable = job_id in [job.id for job in jobs.to_settle(transaction, 100)]
            if settleable:
                jobs.settle_cancelled(transaction, job_id, limit)
        queued = sorted(
            item_id
            for item_id, item in self.model.items.items()
            if item.job == job_id and item.state == "queued"
        )
        assert settleable == (self.model.jobs[job_id].cancelled and bool(queued))
        for item_id in queued[:limit] if settleable else ():
            self.model.items[item_id].state = "cancelled"

    # ---- workers --------------------------------------------------------------------

    @initialize(target=made_jobs)
    def begin(self) -> str:
        return self._submit(4, 0)

    @initialize(target=open_sessions)
    def open(self) -> str:
        return self._start()

    @rule(target=open_sessions)
    def start(self) -> str:
        return self._start()

    @rule(target=claimed)
    def overtake(self) -> Any:
        """Everybody is silent for too long, and somebody else takes what they had."""
        self._wait(LEASE_SECONDS + 1)
        return self._claim(self._start(), 5)

    def _start(self) -> str:
        self.workers += 1
        self._rescue()  # as every start does
        session = builders.session(self.database, f"w{self.workers}", lease_seconds=LEASE_SECONDS)
        self.model.sessions[session] = self.model.clock + LEASE_SECONDS
        return session

    @rule(session=open_sessions)
    def renew(self, session: str) -> None:
        with self._step() as transaction:
            renewed = sessions.heartbeat(transaction, session, LEASE_SECONDS)
        assert renewed == self._lives(session)
        if renewed:
            self.model.sessions[session] = self.model.clock + LEASE_SECONDS

    @rule(target=claimed, session=open_sessions, limit=st.integers(1, 5))
    def claim(self, session: str, limit: int) -> Any:
        return self._claim(session, limit)

    def _claim(self, session: str, limit: int) -> Any:
        taken = builders.claim(self.database, session, limit)
        assert self._lives(session) or not taken
        assert len(taken) <= limit
        for lease in taken:
            item = self.model.items[lease.item_id]
            job = self.model.jobs[item.job]
            assert item.state == "queued"
            assert not job.paused
            assert not job.cancelled
            assert (lease.claim_number, lease.attempts) == (item.attempt + 1, item.tries)
            item.state, item.holder, item.attempt = "running", session, lease.claim_number
        return taken or multiple()

    # One rule, because Hypothesis leaves whole rules out of a life.
    @rule(taken=claimed, how=st.integers(0, 8))
    def end(self, taken: list[Lease], how: int) -> None:
        """End what was claimed at some time, perhaps long ago and more than once."""
        if how < 3:
            self._complete(taken, "abc"[how])
        elif how < 6:
            self._fail(taken, [EngineError("e"), ImageUnreadable("i"), StorageError("s")][how - 3])
        elif how == 6:
            self._release(taken)
        else:
            self._blame(taken, alone=how == 7)

    @rule(target=reserved, taken=claimed)
    def reserve(self, taken: list[Lease]) -> tuple[list[Lease], dict[str, int]]:
        """Reserve result numbers: to be written soon, or much later, or never, or twice."""
        return taken, builders.reserve(self.database, taken)

    @rule(written=reserved)
    def complete_reserved(self, written: tuple[list[Lease], dict[str, int]]) -> None:
        self._complete(written[0], "d", written[1])

    def _complete(
        self,
        taken: list[Lease],
        told: str,
        reserved: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        ours = builders.complete(self.database, taken, told, reserved)
        assert ours == self._ours(taken)
        for lease in taken:
            if lease.item_id in ours:
                self._end(lease, "succeeded", told)

    def _fail(self, taken: list[Lease], error: Any) -> None:
        with self._step() as transaction:
            ours = leases.fail(transaction, [Failure(lease, error) for lease in taken], POLICY)
        assert ours == self._ours(taken)
        for lease in (one for one in taken if one.item_id in ours):
            item = self.model.items[lease.item_id]
            charged = not isinstance(error, StorageError)
            if not error.retryable or (charged and item.tries + 1 >= POLICY.max_attempts):
                self._end(lease, "failed", error.code)
            else:
                item.state, item.holder = "queued", None
            item.tries += charged

    def _release(self, taken: list[Lease]) -> None:
        with self._step() as transaction:
            ours = leases.release(transaction, taken)
        assert ours == self._ours(taken)
        for item_id in ours:
            self.model.items[item_id].state = "queued"
            self.model.items[item_id].holder = None

    def _blame(self, taken: list[Lease], *, alone: bool) -> None:
        running = taken[:1] if alone else taken
        expected = self._ours(running)
        with self._step() as transaction:
            ours = leases.mark_suspects(transaction, running, alone=len(running) == 1)
        assert ours == expected
        for lease in (one for one in running if one.item_id in ours):
            item = self.model.items[lease.item_id]
            if len(running) == 1 and lease.hang_count + 1 >= leases.MAX_HANGS:
                self._end(lease, "failed", "poison")
                item.tries += 1
            else:
                item.deaths += len(running) == 1
                item.state, item.holder = "queued", None

    @rule()
    def rescue(self) -> None:
        self._rescue()

    @rule(seconds=st.sampled_from([30, 60]))
    def wait(self, seconds: int) -> None:
        self._wait(seconds)

    def _wait(self, seconds: int) -> None:
        """Time passes: everything that was to happen does so earlier."""
        self.model.clock += seconds
        builders.age(self.database, seconds, "sessions.alive_until", "items.due_at")

    # ---- what always holds ----------------------------------------------------------

    @invariant()
    def the_record_is_as_the_model(self) -> None:
        with self.database.snapshot() as transaction:
            rows = transaction.execute(
                text("SELECT id, state, session_id, attempt, tries, deaths FROM items")
            ).all()
            counted = transaction.execute(
                text("SELECT id, queued, running, succeeded, failed, cancelled FROM jobs")
            ).all()
        found = {row.id: (row.state, row.session_id, row.attempt, row.tries, row.deaths)
                 for row in rows}  # fmt: skip
        assert found == {
            item_id: (item.state, item.holder, item.attempt, item.tries, item.deaths)
            for item_id, item in self.model.items.items()
        }
        for row in counted:
            states = Counter(item.state for item in self.model.items.values() if item.job == row.id)
            told = {name: getattr(row, name) for name in row._fields if name != "id"}
            assert told == {name: states[name] for name in told}

    @invariant()
    def a_final_result_never_changes_and_a_job_ends_when_all_have(self) -> None:
        owner_id = builders.owner(self.database)
        with self.database.snapshot() as transaction:
            for job_id in self.model.jobs:
                job = jobs.get(transaction, owner_id, job_id)
                assert (job.state in FINAL_JOB_STATES) == (not self._open_items(job_id))
                ids = sorted(one for one in self.model.items if self._is_of(one, job_id))
                for result in results.finished_after(transaction, job_id, number=0, limit=99):
                    told = self.model.items[ids[result.ordinal]].told
                    assert told in (result.error_code, (result.answer or {}).get("text"))

    @invariant()
    def whoever_pages_through_results_has_missed_none_below_the_last_number(self) -> None:
        with self.database.snapshot() as transaction:
            for job_id in self.model.jobs:
                read = self.read.setdefault(job_id, {})
                last = max(read, default=0)
                page = results.finished_after(transaction, job_id, number=last, limit=2)
                read.update({one.result_number or 0: one.ordinal for one in page})
                below = transaction.execute(
                    text(
                        "SELECT result_number, ordinal FROM items"
                        " WHERE job_id = :job AND result_number <= :last"
                    ),
                    {"job": job_id, "last": max(read, default=0)},
                )
                assert read == {row.result_number: row.ordinal for row in below}

    def _rescue(self) -> None:
        with self._step() as transaction:
            rescued = rescues.rescue(transaction)
        dead = [
            item
            for item in self.model.items.values()
            if item.state == "running" and not self._lives(str(item.holder))
        ]
        assert rescued == len(dead)
        for item in dead:
            item.state, item.holder = "queued", None

    def _lives(self, session: str) -> bool:
        return self.model.sessions[session] > self.model.clock

    def _is_of(self, item_id: int, job_id: str) -> bool:
        return self.model.items[item_id].job == job_id

    def _ours(self, taken: list[Lease]) -> set[int]:
        return {lease.item_id for lease in taken if self.model.holds(lease)}

    def _end(self, lease: Lease, state: str, told: str) -> None:
        item = self.model.items[lease.item_id]
        item.state, item.holder, item.told = state, None, told

    def _open_items(self, job_id: str) -> int:
        return sum(
            item.state in ("queued", "running")
            for item in self.model.items.values()
            if item.job == job_id
        )


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_any_sequence_of_operations_leaves_the_database_as_the_state_machine_predicts(
    kind: str, request: pytest.FixtureRequest
) -> None:
    database = Database(request.getfixturevalue(f"{kind}_url"))
    machine = type("Machine", (Record,), {"database": database})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=2_500 if settings.get_current_profile_name() == "long" else 40,
            stateful_step_count=50,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    database.dispose()
