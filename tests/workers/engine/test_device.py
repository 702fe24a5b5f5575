"""One batch at a time, halved when it does not fit."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from db.cards import Limits, ModelCard
from db.errors import EngineError, OutOfMemory
from workers.engine.device import Device, Outcome
from workers.families.base import Answer, Prepared

CARD = ModelCard(
    name="small",
    family="echo",
    kinds=["caption"],
    limits=Limits(max_images=1, max_new_tokens=8),
    licence="Apache-2.0",
)


class SmallDevice:
    """A family for a device that takes batches of `fits` tokens and breaks on some inputs."""

    card = CARD

    def __init__(self, fits: int) -> None:
        self.fits, self.ran = fits, list[int]()

    def prepare(self, request: dict[str, Any], images: Sequence[object]) -> Prepared:
        return Prepared(request, request["tokens"], request.get("breaks"))

    def generate(self, batch: Sequence[Prepared]) -> list[Answer]:
        self.ran.append(len(batch))
        if sum(item.tokens for item in batch) > self.fits:
            raise MemoryError
        for item in batch:
            if item.inputs:
                raise item.inputs
        return [Answer(str(item.tokens), "stop", 1, 1, "t/1") for item in batch]


def make(
    family: SmallDevice,
    *,
    stuck_seconds: float = 60.0,
    probe: Callable[[], None] = lambda: None,
    on_broken: Callable[[], None] = lambda: None,
) -> Device:
    return Device(family, stuck_seconds=stuck_seconds, probe=probe, on_broken=on_broken)


def run(family: SmallDevice, *requests: dict[str, Any]) -> list[str]:
    device = make(family)
    outcomes = device.run([family.prepare(r, []) for r in requests], lambda: True)
    assert outcomes is not None
    return [_show(outcome) for outcome in outcomes]


def _show(outcome: Outcome) -> str:
    return outcome.text if isinstance(outcome, Answer) else outcome.code


def test_a_size_that_did_not_fit_is_not_tried_again() -> None:
    family = SmallDevice(fits=20)
    device = make(family)
    batch = [family.prepare({"tokens": 8}, []) for _ in range(4)]

    for _ in range(3):
        device.run(batch, lambda: True)

    assert family.ran == [4, 2, 2, 2, 2, 2, 2]


def test_a_batch_that_does_not_fit_is_halved_until_it_does() -> None:
    family = SmallDevice(fits=2)

    assert run(family, *[{"tokens": 1}] * 8) == ["1"] * 8
    assert family.ran == [8, 4, 2, 2, 2, 2]


def test_an_item_that_does_not_fit_even_alone_fails_alone() -> None:
    said = run(SmallDevice(fits=4), {"tokens": 1}, {"tokens": 9}, {"tokens": 2})

    assert said == ["1", OutOfMemory.code, "2"]


@pytest.mark.parametrize("error", [EngineError("broken"), ZeroDivisionError()])
def test_an_item_that_breaks_the_batch_is_found_and_its_neighbours_are_answered(
    error: Exception,
) -> None:
    said = run(SmallDevice(fits=99), {"tokens": 1}, {"tokens": 2, "breaks": error}, {"tokens": 3})

    assert said == ["1", EngineError.code, "3"]


class Broken(Exception):
    """The process would end here."""


def test_a_device_that_answers_nothing_any_more_ends_the_process_and_blames_no_item() -> None:
    def probe() -> None:
        raise RuntimeError("device-side assert")

    def end() -> None:
        raise Broken

    family = SmallDevice(fits=99)
    device = make(family, probe=probe, on_broken=end)
    batch = [family.prepare({"tokens": 1, "breaks": EngineError("lost")}, [])] * 4

    with pytest.raises(Broken):
        device.run(batch, lambda: True)


def test_a_batch_that_may_not_start_is_left_alone() -> None:
    family = SmallDevice(fits=9)

    assert make(family).run([], lambda: False) is None
    assert family.ran == []


def test_a_batch_that_hangs_is_noticed() -> None:
    begun, end = threading.Event(), threading.Event()

    class Hangs(SmallDevice):
        def generate(self, batch: Sequence[Prepared]) -> list[Answer]:
            begun.set()
            end.wait()
            return super().generate(batch)

    family = Hangs(fits=1)
    device = make(family, stuck_seconds=0.0)
    batch = [family.prepare({"tokens": 1}, [])]
    thread = threading.Thread(target=device.run, args=(batch, lambda: True))
    before = device.is_stuck()
    thread.start()
    begun.wait()
    during = device.is_stuck()
    end.set()
    thread.join()

    assert (before, during, device.is_stuck()) == (False, True, False)
