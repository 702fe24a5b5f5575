"""The same is answered once within an owner, and told to all who asked."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL.Image import Image

from db.blobs.store import image_key
from db.queue import answer_cache, retention
from db.queue.lease import Lease
from db.queue.submissions import NewItem, NewJob
from db.sql.database import Database
from db.vocabulary.errors import EngineError
from db.vocabulary.model_info import ModelInfo
from db.vocabulary.states import SourceApi
from tests import pictures
from tests.db import builders
from tests.workers import parts
from tests.workers.engine.device_parts import CARD, loaded
from tests.workers.engine.test_engine import answer_all, items, make
from workers import families
from workers.engine.engine import Engine
from workers.engine.single_flight import SingleFlight, request_key
from workers.families import checkpoints
from workers.families.base import Answer, Prepared
from workers.settings import EngineSettings

KNOWN = CARD.model_copy(update={"fingerprint": "abc", "defaults": {"max_new_tokens": 8}})


class Counting:
    """Echo with a fingerprint, that counts what it is asked and fails as often as it is told."""

    slot_engine = target_size = None

    def __init__(self, fingerprint: str = "f", failures: int = 0) -> None:
        self._family = families.load(EngineSettings(model="echo"))
        self.card: ModelInfo = self._family.card.model_copy(update={"fingerprint": fingerprint})
        self.answered, self._failures = 0, failures

    def prepare(self, request: dict[str, Any], images: Sequence[Image]) -> Prepared:
        if self._failures:
            self._failures -= 1
            raise EngineError("not this time")
        return self._family.prepare(request, images)

    def generate(self, batch: Sequence[Prepared]) -> list[Answer]:
        self.answered += len(batch)
        return self._family.generate(batch)


@pytest.fixture
def made(database: Database, tmp_path: Path) -> Iterator[tuple[Engine, Counting]]:
    family = Counting()
    engine, session = make(database, tmp_path, family)
    yield engine, family
    engine.close()
    session.stop()


def submit(
    database: Database, folder: Path, *requests: dict[str, Any], owner: str = "", color: str = "red"
) -> str:
    """A job about one picture."""
    owner_id = builders.owner(database, owner) if owner else builders.owner(database)
    data = pictures.plain(color)
    digest = hashlib.sha256(data).hexdigest()
    parts.store(folder).put(image_key(owner_id, digest), io.BytesIO(data))
    image = builders.checked_image(database, owner_id, digest)
    asked = [NewItem({"images": [image], **request}) for request in requests]
    with database.transaction() as transaction:
        return builders.submit(transaction, NewJob(owner_id, builders.MODEL, {}), asked)


def cached(database: Database, job_id: str) -> list[bool]:
    """Whether each item's answer was somebody else's; all are to have one."""
    answers = [item.answer for item in items(database, job_id)]
    assert all(answers)
    return [bool(answer and answer.get("cached")) for answer in answers]


class TestAnEngine:
    def test_it_answers_equal_items_of_a_job_once(
        self, made: tuple[Engine, Counting], database: Database, tmp_path: Path
    ) -> None:
        engine, family = made
        job_id = submit(database, tmp_path, *[{}] * 5, {"prompt": "else"})

        answer_all(engine)

        assert family.answered == 2
        assert cached(database, job_id) == [False, True, True, True, True, False]
        texts = {item.answer["text"] for item in items(database, job_id)[:5] if item.answer}
        assert len(texts) == 1

    def test_it_gives_the_answer_of_an_earlier_job(
        self, made: tuple[Engine, Counting], database: Database, tmp_path: Path
    ) -> None:
        engine, family = made
        first = submit(database, tmp_path, {})
        answer_all(engine)
        again, other = submit(database, tmp_path, {}), submit(database, tmp_path, {}, color="blue")

        answer_all(engine)

        assert family.answered == 2
        assert [cached(database, job) for job in (first, again, other)] == [
            [False],
            [True],
            [False],
        ]

    def test_no_owner_gets_another_s_answer(
        self, made: tuple[Engine, Counting], database: Database, tmp_path: Path
    ) -> None:
        engine, family = made
        mine = submit(database, tmp_path, {})
        theirs = submit(database, tmp_path, {}, owner="grace")

        answer_all(engine)

        assert family.answered == 2
        assert cached(database, mine) == cached(database, theirs) == [False]

    def test_answers_of_a_deleted_job_are_used_no_more(
        self, made: tuple[Engine, Counting], database: Database, tmp_path: Path
    ) -> None:
        engine, family = made
        gone = submit(database, tmp_path, {})
        answer_all(engine)
        owner_id = builders.owner(database)
        with database.transaction() as transaction:
            retention.soft_delete_job(transaction, owner_id, gone)
        job_id = submit(database, tmp_path, {})

        answer_all(engine)

        assert family.answered == 2
        assert cached(database, job_id) == [False]

    def test_when_the_first_fails_the_next_is_asked(
        self, database: Database, tmp_path: Path
    ) -> None:
        family = Counting(failures=1)
        engine, session = make(database, tmp_path, family)
        job_id = submit(database, tmp_path, *[{}] * 4)

        answer_all(engine)
        engine.close()
        session.stop()

        found = items(database, job_id)
        assert family.answered == 1
        assert [bool(item.answer) for item in found] == [False, True, True, True]
        assert [item.answer["cached"] for item in found[2:] if item.answer] == [True, True]

    def test_what_another_engine_is_answering_is_waited_for(
        self, made: tuple[Engine, Counting], database: Database, tmp_path: Path
    ) -> None:
        engine, family = made
        job_id = submit(database, tmp_path, {}, {})
        elsewhere = builders.session(database)
        [first] = builders.claim(database, elsewhere, limit=1)
        key = request_key(first, family.card)
        assert key
        with database.transaction() as transaction:
            answer_cache.store_keys(transaction, [(first, key)])

        engine.run_once()
        engine.wait_until_idle()
        assert family.answered == 0
        assert builders.counts(database, job_id) == {"queued": 1, "running": 1}

        builders.complete(database, [first])
        builders.make_due(database)
        answer_all(engine)

        assert family.answered == 0
        assert cached(database, job_id) == [False, True]

    def test_a_switch_turns_it_off(self, database: Database, tmp_path: Path) -> None:
        family = Counting(fingerprint="")
        engine, session = make(database, tmp_path, family)
        job_id = submit(database, tmp_path, *[{}] * 3)

        answer_all(engine)
        engine.close()
        session.stop()

        assert family.answered == 3
        assert cached(database, job_id) == [False] * 3


def test_weights_that_differ_in_one_tensor_have_another_fingerprint(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    prints = set()
    for value in (0.0, 0.0, 1.0):
        tensors = {f"layer {n}": torch.zeros(100_000) for n in range(5)}
        tensors["layer 2"] += value
        save_file(tensors, tmp_path / "model.safetensors")
        prints.add(checkpoints.fingerprint(tmp_path))

    assert len(prints) == 2


def lease(**request: Any) -> Lease:
    return replace(loaded().lease, request={"kind": "caption", **request}, images=["blob:a"])


class TestKeys:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ({}, {"options": {"max_new_tokens": 8}}),
            ({"images": ["https://a.example/1"]}, {"images": ["data:image/png;base64,AA"]}),
            ({"alt_text": {"heading": "x", "page": "1"}}, {"alt_text": {"heading": "x"}}),
            (
                {"options": {"do_sample": True, "seed": 1}},
                {"options": {"seed": 1, "do_sample": True}},
            ),
        ],
    )
    def test_what_cannot_change_an_answer_changes_no_key(
        self, one: dict[str, Any], other: dict[str, Any]
    ) -> None:
        assert request_key(lease(**one), KNOWN) == request_key(lease(**other), KNOWN) is not None

    @pytest.mark.parametrize(
        "other",
        [
            {"prompt": "else"},
            {"kind": "vqa"},
            {"options": {"max_new_tokens": 9}},
            {"options": {"do_sample": True, "seed": 2}},
            {"alt_text": {"heading": "y"}},
            {"template": "{images} Say"},
            {"options": {"echo": True}},
        ],
    )
    def test_what_can_does(self, other: dict[str, Any]) -> None:
        keys = {request_key(lease(), KNOWN), request_key(lease(**other), KNOWN)}

        assert len(keys) == 2

    def test_other_images_and_other_models_have_other_cache_keys(self) -> None:
        first = lease(images=["https://a.example/1"])
        keys = {
            request_key(first, KNOWN),
            request_key(replace(first, images=["blob:b"]), KNOWN),
            request_key(replace(first, examples=["blob:c"]), KNOWN),
            request_key(first, KNOWN.model_copy(update={"fingerprint": "def"})),
        }

        assert len(keys) == 4

    def test_sampled_answers_without_a_seed_and_chat_completions_are_not_cached(self) -> None:
        assert request_key(lease(options={"do_sample": True}), KNOWN) is None
        assert request_key(replace(lease(), source_api=SourceApi.CHAT), KNOWN) is None
        assert request_key(lease(), CARD) is None


def test_one_leads_until_it_has_landed_and_the_next_when_it_fails() -> None:
    flights, three = SingleFlight(2), [lease(), lease(), lease()]

    def join(number: int, *, may_lead: bool = True) -> str:
        return flights.join(three[number], "key", may_lead=may_lead)

    assert join(0, may_lead=False) == "waits"
    assert [join(number) for number in range(3)] == ["leads", "follows", "follows"]
    assert flights.join(lease(), "key", may_lead=True) == "waits"
    assert flights.fail(three[0]) == three[1]
    assert flights.complete(three[1]) == [three[2]]
    assert flights.complete(three[1]) == []
    assert join(0) == "leads"
    assert flights.fail(three[0]) is None
    assert join(1) == "leads"
