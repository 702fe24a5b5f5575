"""The generate stage, on a real record and store, with echo."""

import hashlib
import io
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL.Image import Image

from db.blobs.store import image_key
from db.images import known_images
from db.queue import results
from db.queue.submissions import NewItem, NewJob
from db.sql.database import Database
from db.vocabulary.items import Item
from tests import pictures, servers
from tests.db import builders
from tests.servers import PATIENCE_SECONDS
from tests.workers import parts
from workers import families
from workers.engine.device import Device
from workers.engine.engine import Engine
from workers.engine.in_flight import InFlight
from workers.engine.schedule import Schedule
from workers.families.base import Answer, Family, Prepared
from workers.session import Session
from workers.settings import EngineSettings


def make(database: Database, folder: Path, family: Family) -> tuple[Engine, Session]:
    session, in_flight = parts.session(database, folder), InFlight()
    engine = Engine(
        database,
        parts.store(folder),
        family,
        Device(
            family,
            Schedule(slots=0, budget=1000, batch_items=8),
            in_flight,
            stuck_seconds=60,
            probe=lambda: None,
            on_broken=lambda: None,
        ),
        session,
        parts.lease_writer(database, session),
        parts.notices(),
        batch_items=8,
        loaders=2,
        pixels=10_000,
        in_flight=in_flight,
        stopping=threading.Event(),
    )
    return engine, session


@pytest.fixture
def engine(database: Database, tmp_path: Path) -> Iterator[Engine]:
    made, session = make(database, tmp_path, families.load(EngineSettings(model="echo")))
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
        return builders.submit(transaction, NewJob(owner_id, builders.MODEL, {}), items)


def answer_all(engine: Engine) -> None:
    while engine.run_once():
        pass
    engine.wait_until_idle()


def items(database: Database, job_id: str) -> list[Item]:
    with database.snapshot() as transaction:
        return list(results.in_order(transaction, job_id, first=0, limit=100))


def test_every_item_gets_the_answer_to_its_own_image(
    engine: Engine, database: Database, tmp_path: Path
) -> None:
    job_id = submit(database, tmp_path, 11)

    answer_all(engine)

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

    answer_all(engine)

    assert [item.error_code for item in items(database, job_id)] == ["image_mismatch", None]
    assert not stored(database, changed.images[0])


def stored(database: Database, reference: str) -> set[str]:
    """What an upload of this image would be told to leave out."""
    owner_id, digest = builders.owner(database), reference.removeprefix("blob:")
    with database.snapshot() as transaction:
        return known_images.stored(transaction, owner_id, [digest])


def test_an_image_that_vanished_fails_its_item_alone(
    engine: Engine, database: Database, tmp_path: Path
) -> None:
    job_id = submit(database, tmp_path, 2)
    gone = items(database, job_id)[1]
    assert gone.images
    key = image_key(builders.owner(database), gone.images[0].removeprefix("blob:"))
    parts.store(tmp_path).delete(key)

    answer_all(engine)

    assert [item.error_code for item in items(database, job_id)] == [None, "image_not_found"]
    assert not stored(database, gone.images[0])


class Hanging:
    """Echo, until one of the prompts is there: then it hangs like a device that is lost."""

    slot_engine = target_size = None

    def __init__(self, family: Family) -> None:
        self._family, self.card = family, family.card
        self.hangs, self.goes_on = threading.Event(), threading.Event()

    def prepare(self, request: dict[str, Any], images: Sequence[Image]) -> Prepared:
        return self._family.prepare(request, images)

    def generate(self, batch: Sequence[Prepared]) -> list[Answer]:
        if any(item.request.get("prompt") == "hang" for item in batch):
            self.hangs.set()
            self.goes_on.wait(PATIENCE_SECONDS)
        return self._family.generate(batch)


def test_an_item_that_hangs_the_device_is_given_up_and_its_neighbours_are_answered(
    database: Database, tmp_path: Path
) -> None:
    owner_id = builders.owner(database)
    data = pictures.plain()
    digest = hashlib.sha256(data).hexdigest()
    parts.store(tmp_path).put(image_key(owner_id, digest), io.BytesIO(data))
    image = builders.checked_image(database, owner_id, digest)
    asked = [NewItem({"images": [image], "prompt": f"{n}"}) for n in range(4)]
    asked[2] = NewItem({"images": [image], "prompt": "hang"})
    with database.transaction() as transaction:
        job_id = builders.submit(transaction, NewJob(owner_id, builders.MODEL, {}), asked)

    def life() -> bool:
        """A worker until it has nothing to do, or hangs and is ended."""
        family = Hanging(families.load(EngineSettings(model="echo")))
        engine, session = make(database, tmp_path, family)

        def work() -> None:
            while not family.hangs.is_set() and engine.run_once():
                pass
            engine.wait_until_idle()

        thread = threading.Thread(target=work)
        thread.start()
        servers.wait_until(lambda: family.hangs.is_set() or not thread.is_alive())
        hung = family.hangs.is_set()
        if hung:
            engine.mark_suspects()  # from here on a real process is gone
        family.goes_on.set()
        thread.join()
        engine.close()
        session.stop()
        return hung

    lives = 0
    while life():
        lives += 1

    assert lives == 3  # once with others, twice alone
    assert [item.error_code for item in items(database, job_id)] == [None, None, "poison", None]


def test_a_worker_without_a_session_that_holds_claims_nothing(
    database: Database, tmp_path: Path
) -> None:
    engine, session = make(database, tmp_path, families.load(EngineSettings(model="echo")))
    job_id = submit(database, tmp_path, 1)
    session.stop()
    session.abandon(session.id)

    assert engine.run_once() is False
    engine.close()
    assert builders.counts(database, job_id) == {"queued": 1}


def test_every_answer_names_its_model_and_the_variant_that_the_session_serves(
    engine: Engine, database: Database, tmp_path: Path
) -> None:
    job_id = submit(database, tmp_path, 1)
    card = families.load(EngineSettings(model="echo")).card

    answer_all(engine)

    [item] = items(database, job_id)
    assert item.answer
    assert (item.answer["model"], item.answer["variant"]) == ("echo", card.variant)
    assert card.variant


def test_another_option_of_an_engine_is_another_variant() -> None:
    asked = [{}, {}, {"max_new_tokens": 5}, {"new_tokens_limit": 77}]

    cards = [families.load(EngineSettings.model_validate({"model": "echo", **each})).card
             for each in asked]  # fmt: skip

    assert len({card.variant for card in cards}) == 3
