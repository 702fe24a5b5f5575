"""The generate stage, on a real record and store, with echo."""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from db import results, submissions
from db.blobs import image_key
from db.database import Database
from db.results import Item
from db.submissions import NewItem, NewJob
from tests import pictures
from tests.db import builders
from tests.workers import parts
from workers import families
from workers.ends import MAX_RESCUES
from workers.engine.device import Device
from workers.engine.engine import Engine
from workers.settings import EngineSettings


@pytest.fixture
def engine(database: Database, tmp_path: Path) -> Iterator[Engine]:
    family = families.load(EngineSettings(model="echo"))
    session = parts.session(database, tmp_path)
    made = Engine(
        database,
        parts.store(tmp_path),
        family,
        Device(family, stuck_seconds=60, probe=lambda: None, on_broken=lambda: None),
        session,
        parts.ends(database, session),
        parts.notices(),
        batch_items=8,
        loaders=2,
    )
    yield made
    made.close()
    session.stop()


def submit(database: Database, folder: Path, count: int) -> str:
    """A job of different good images."""
    owner_id, items = builders.owner(database), []
    for number in range(count):
        data = pictures.plain(size=(4, 4 + number))
        digest = hashlib.sha256(data).hexdigest()
        parts.store(folder).put(image_key(owner_id, digest), io.BytesIO(data))
        items.append(NewItem({"images": [builders.checked_image(database, owner_id, digest)]}))
    with database.transaction() as transaction:
        return submissions.submit(transaction, NewJob(owner_id, builders.MODEL, {}), items)


def items(database: Database, job_id: str) -> list[Item]:
    with database.snapshot() as transaction:
        return list(results.in_order(transaction, job_id, first=0, limit=100))


def test_every_item_gets_the_answer_to_its_own_image(
    engine: Engine, database: Database, tmp_path: Path
) -> None:
    job_id = submit(database, tmp_path, 11)

    while engine.look():
        pass

    said = [item.answer["text"] for item in items(database, job_id) if item.answer]
    assert [f" 4x{4 + number} " in one for number, one in enumerate(said)] == [True] * 11


def test_bytes_that_changed_after_they_were_checked_are_not_decoded(
    engine: Engine, database: Database, tmp_path: Path
) -> None:
    job_id = submit(database, tmp_path, 2)
    changed = items(database, job_id)[0]
    assert changed.images
    key = image_key(builders.owner(database), changed.images[0].removeprefix("blob:"))
    parts.store(tmp_path).put(key, io.BytesIO(pictures.plain("blue")))

    engine.look()

    assert [item.error_code for item in items(database, job_id)] == ["image_mismatch", None]


def test_an_image_that_vanished_fails_its_item_alone(
    engine: Engine, database: Database, tmp_path: Path
) -> None:
    job_id = submit(database, tmp_path, 2)
    gone = items(database, job_id)[1]
    assert gone.images
    key = image_key(builders.owner(database), gone.images[0].removeprefix("blob:"))
    parts.store(tmp_path).delete(key)

    engine.look()

    assert [item.error_code for item in items(database, job_id)] == [None, "image_not_found"]


def test_an_item_that_has_cost_many_workers_is_given_up_and_its_neighbours_are_not(
    engine: Engine, database: Database, tmp_path: Path
) -> None:
    job_id = submit(database, tmp_path, 3)
    with database.transaction() as transaction:
        transaction.execute(
            text("UPDATE items SET rescues = :most WHERE ordinal = 1"), {"most": MAX_RESCUES}
        )

    engine.look()

    assert [item.error_code for item in items(database, job_id)] == [None, "poison", None]


def test_a_worker_without_a_session_that_holds_claims_nothing(
    engine: Engine, database: Database, tmp_path: Path
) -> None:
    job_id = submit(database, tmp_path, 1)
    engine._session.stop()
    engine._session.abandon(engine._session.id)

    assert engine.look() is False
    assert builders.counts(database, job_id) == {"queued": 1}
