"""Checking bytes from strangers, in children that may die of them."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from db.errors import CheckDied
from db.verdicts import OK, Verdict
from tests import pictures
from workers.intake import check
from workers.intake.check import Checkers, Limits
from workers.settings import IntakeSettings

LIMITS = Limits(image_bytes=100_000, pixels=10_000, aspect=10.0)


@pytest.fixture(scope="module")
def checkers() -> Iterator[Checkers]:
    settings = IntakeSettings(
        intake_children=2, check_seconds=4.0, check_memory_bytes=2**29, max_image_pixels=10**9
    )
    made = Checkers(settings)
    yield made
    made.close()


def test_a_good_image_is_measured() -> None:
    verdict = check.check(pictures.plain(size=(8, 6)), LIMITS)

    assert verdict == Verdict(OK, None, "PNG", 8, 6)


@pytest.mark.parametrize(
    ("data", "code", "says"),
    [
        (b"junk", "image_unreadable", "not an image"),
        (pictures.plain()[:50], "image_unreadable", "broken image"),
        (pictures.claims(200, 200), "image_too_large", "at most 10000"),
        (pictures.claims(2**30, 2**30), "image_too_large", "at most 10000"),
        (pictures.claims(2000, 1), "image_too_large", "narrower than 1:10"),
        (b"\0" * 100_001, "image_too_large", "at most 100000"),
    ],
    ids=["junk", "cut off", "pixels", "bomb", "aspect", "bytes"],
)
def test_a_bad_image_has_a_verdict_with_its_code_and_a_sentence(
    data: bytes, code: str, says: str
) -> None:
    verdict = check.check(data, LIMITS)

    assert verdict.code == code
    assert says in (verdict.message or "")


def test_a_child_gives_the_same_verdict(checkers: Checkers) -> None:
    assert checkers.check(pictures.plain(size=(8, 6))) == Verdict(OK, None, "PNG", 8, 6)


def test_an_image_that_eats_memory_is_too_large_and_harms_nobody(checkers: Checkers) -> None:
    bomb = pictures.encode(Image.new("1", (30_000, 30_000)))

    with ThreadPoolExecutor(4) as threads:
        verdicts = list(threads.map(checkers.check, [bomb, pictures.plain()]))

    assert [verdict.code for verdict in verdicts] == ["image_too_large", OK]


def test_a_child_that_dies_is_blamed_on_its_own_image(checkers: Checkers) -> None:
    pool = checkers._pool

    with ThreadPoolExecutor(2) as threads:
        dying = threads.submit(checkers._result, pool.apply_async(_die))
        healthy = [threads.submit(checkers.check, pictures.plain()) for _ in range(8)]

        with pytest.raises(CheckDied, match="died"):
            dying.result()
        assert [future.result().code for future in healthy] == [OK] * 8


def test_a_check_that_hangs_is_ended(checkers: Checkers) -> None:
    with pytest.raises(CheckDied, match="too long"):
        checkers._result(checkers._pool.apply_async(_hang))

    assert checkers.check(pictures.plain()).code == OK


def _die() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _hang() -> None:
    while True:
        time.sleep(1)
