"""Upkeep: imports that survive crashes, and jobs that harm no other job."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from db.blobs.store import results_key
from db.queue import imports, jobs, leases, results, submissions
from db.queue.jobs import Job
from db.queue.submissions import NewItem, NewJob
from db.sql.database import Database
from db.vocabulary.states import JobState
from tests.db import builders
from tests.workers import parts
from workers.upkeep import turns as turns_module
from workers.upkeep import upkeep as upkeep_module


def spool(
    database: Database,
    folder: Path,
    lines: Sequence[object],
    key: str = "1/spool/a",
    owner: str = "ada",
) -> Job:
    """A job as the API leaves it: a durable spool and a row."""
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    parts.store(folder).put(key, io.BytesIO(body))
    owner_id = builders.owner(database, owner)
    new = NewJob(owner_id, builders.MODEL, {}, spool_key=key, spool_lines=len(lines))
    with database.transaction() as transaction:
        return jobs.get(transaction, owner_id, submissions.create(transaction, new))


def line(number: int, **fields: object) -> dict[str, object]:
    request = {"images": [builders.IMAGE], "prompt": f"number {number}", **fields}
    return {"request": request, "custom_id": None}


def look(database: Database, folder: Path) -> None:
    parts.upkeep(database, folder).run_once()


def state(database: Database, job: Job) -> JobState:
    with database.snapshot() as transaction:
        return jobs.get(transaction, job.owner_id, job.id).state


def test_a_spool_is_imported_sealed_and_deleted(database: Database, tmp_path: Path) -> None:
    job = spool(database, tmp_path, [line(n) for n in range(5)])

    look(database, tmp_path)

    assert state(database, job) is JobState.QUEUED
    assert builders.counts(database, job.id) == {"queued": 5}
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []


def test_an_import_goes_on_where_a_crash_left_it(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep_module, "PAGE", 2)
    monkeypatch.setattr(turns_module, "MAX_PAGES", 1)
    job = spool(database, tmp_path, [line(n) for n in range(5)])

    seen = []
    for _ in range(3):  # each look is cut off after a page, as by a crash, and starts afresh
        look(database, tmp_path)
        seen.append((state(database, job), builders.counts(database, job.id)["queued"]))

    assert seen == [(JobState.IMPORTING, 2), (JobState.IMPORTING, 4), (JobState.QUEUED, 5)]


def test_a_crash_between_sealing_and_deleting_leaves_no_spool_behind(
    database: Database, tmp_path: Path
) -> None:
    job = spool(database, tmp_path, [])
    with database.transaction() as transaction:
        submissions.seal(transaction, job.id)

    look(database, tmp_path)
    look(database, tmp_path)

    assert list((tmp_path / "blobs/1/spool").iterdir()) == []
    assert state(database, job) is JobState.SUCCEEDED


def test_a_spool_that_can_never_be_imported_ends_its_job_and_no_other(
    database: Database, tmp_path: Path
) -> None:
    gone = spool(database, tmp_path, [line(0)], key="1/spool/gone")
    parts.store(tmp_path).delete("1/spool/gone")
    broken = spool(database, tmp_path, ["no item"], key="1/spool/broken")
    good = spool(database, tmp_path, [line(0)], key="1/spool/good")

    look(database, tmp_path)
    look(database, tmp_path)

    assert state(database, gone) is JobState.CANCELLED
    assert state(database, good) is JobState.QUEUED
    assert state(database, broken) in (JobState.CANCELLED, JobState.IMPORTING)


def test_who_comes_late_to_an_import_that_is_done_ends_nothing(
    database: Database, tmp_path: Path
) -> None:
    job = spool(database, tmp_path, [line(n) for n in range(5)])
    look(database, tmp_path)

    list(parts.upkeep(database, tmp_path).import_job(job))  # as it was before the other's look

    assert state(database, job) is JobState.QUEUED


def test_long_lines_make_short_pages_and_each_read_starts_where_the_last_one_ended(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep_module, "PAGE_BYTES", 300)
    monkeypatch.setattr(turns_module, "MAX_PAGES", 1)
    lines = [line(n, note="x" * 100 * n) for n in range(5)]
    job = spool(database, tmp_path, lines)
    sizes = [len(json.dumps(each)) + 1 for each in lines]

    seen = []
    for _ in range(4):
        look(database, tmp_path)
        with database.snapshot() as transaction:
            now = jobs.get(transaction, job.owner_id, job.id)
        seen.append((now.spool_offset, now.spool_bytes))

    assert seen == [(n, sum(sizes[:n])) for n in (2, 3, 4, 5)]
    assert state(database, job) is JobState.QUEUED


def test_an_import_that_an_older_version_began_is_ended(database: Database, tmp_path: Path) -> None:
    job = spool(database, tmp_path, [line(n) for n in range(5)])
    with database.transaction() as transaction:
        imports.import_page(transaction, job, 0, [NewItem({"images": [builders.IMAGE]})] * 3, 0)

    look(database, tmp_path)

    assert builders.counts(database, job.id) == {"queued": 5}
    with database.snapshot() as transaction:
        last = results.get(transaction, job.owner_id, job.id, 4)
    assert last.request == line(4)["request"]


def test_the_results_of_a_finished_job_are_written_in_its_order(
    database: Database, tmp_path: Path
) -> None:
    job_id = builders.job(database, items=3)
    taken = builders.claim(database, builders.session(database))
    for lease in reversed(taken):
        with database.transaction() as transaction:
            leases.complete(transaction, [(lease, {"text": lease.request["prompt"]})])

    look(database, tmp_path)

    owner_id = builders.owner(database)
    written = parts.store(tmp_path).get(results_key(owner_id, job_id)).splitlines()
    assert [json.loads(one)["answer"]["text"] for one in written] == [
        "number 0",
        "number 1",
        "number 2",
    ]
    with database.snapshot() as transaction:
        assert jobs.get(transaction, owner_id, job_id).results_key


def test_a_cancelled_job_is_settled(database: Database, tmp_path: Path) -> None:
    job_id, owner_id = builders.job(database, items=3), builders.owner(database)
    with database.transaction() as transaction:
        jobs.cancel(transaction, owner_id, job_id)

    look(database, tmp_path)

    assert builders.counts(database, job_id) == {"cancelled": 3}
