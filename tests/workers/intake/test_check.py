"""Checking bytes from strangers, in children that may die of them."""

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from db.images.known_images import OK, CheckResult
from db.vocabulary.errors import CheckDied, EngineError
from tests import pictures, servers
from workers.intake import check
from workers.intake.check import Checkers, ImageLimits
from workers.settings import IntakeSettings

OWNER = 1
LIMITS = ImageLimits(image_bytes=100_000, pixels=10_000, aspect=10.0)


@pytest.fixture(scope="module")
def checkers() -> Iterator[Checkers]:
    settings = IntakeSettings(
        intake_children=2, check_seconds=1.0, check_memory_bytes=2**29, max_image_pixels=10**9
    )
    made = Checkers(settings)
    yield made
    made.close()


def test_a_good_image_is_measured() -> None:
    check_result = check.check(pictures.plain(size=(8, 6)), LIMITS)

    assert check_result == CheckResult(OK, None, "PNG", 8, 6)


@pytest.mark.parametrize(
    ("data", "code", "says"),
    [
        (b"junk", "image_unreadable", "not an image"),
        (pictures.plain()[:50], "image_unreadable", "damaged image"),
        (pictures.claims(200, 200), "image_too_large", "the limit is 10000"),
        (pictures.claims(2**30, 2**30), "image_too_large", "the limit is 10000"),
        (pictures.claims(2000, 1), "image_too_large", "narrower than 1:10"),
        (b"\0" * 100_001, "image_too_large", "the limit is 100000"),
    ],
    ids=["junk", "cut off", "pixels", "bomb", "aspect", "bytes"],
)
def test_a_bad_image_gets_a_check_result_with_a_code_and_a_message(
    data: bytes, code: str, says: str
) -> None:
    check_result = check.check(data, LIMITS)

    assert check_result.code == code
    assert says in (check_result.message or "")


def test_a_child_process_gives_the_same_check_result(checkers: Checkers) -> None:
    assert checkers.check(OWNER, pictures.plain(size=(8, 6))) == CheckResult(OK, None, "PNG", 8, 6)


def test_an_image_that_exhausts_memory_is_too_large_and_harms_no_other(checkers: Checkers) -> None:
    bomb = pictures.encode(Image.new("1", (30_000, 30_000)))

    with ThreadPoolExecutor(4) as threads:
        check_results = list(
            threads.map(functools.partial(checkers.check, OWNER), [bomb, pictures.plain()])
        )

    assert [check_result.code for check_result in check_results] == ["image_too_large", OK]


def next_child(checkers: Checkers) -> int:
    """The process that checks what comes next."""
    pid = checkers.idle.queue[-1].process.pid
    assert pid
    return pid


def test_a_child_that_dies_is_charged_to_the_image_it_was_checking(checkers: Checkers) -> None:
    child = next_child(checkers)
    os.kill(child, signal.SIGSTOP)  # so that it is busy with this image when it dies

    with ThreadPoolExecutor(2) as threads:
        dying = threads.submit(checkers.check, OWNER, pictures.plain())
        servers.wait_until(lambda: next_child(checkers) != child)
        healthy = [threads.submit(checkers.check, OWNER, pictures.plain()) for _ in range(8)]
        os.kill(child, signal.SIGKILL)

        with pytest.raises(CheckDied, match="died"):
            dying.result()
        assert [future.result().code for future in healthy] == [OK] * 8


def test_a_child_that_died_while_idle_is_charged_to_no_image(
    checkers: Checkers,
) -> None:
    """As when the kernel runs out of memory: nothing is shared that it could take with it."""
    for child in list(checkers.idle.queue):
        child.process.kill()
        child.process.join()

    assert [checkers.check(OWNER, pictures.plain()).code for _ in range(4)] == [OK] * 4


def _never_begin(*_: object) -> None:
    os._exit(1)


def test_a_child_that_dies_before_it_starts_is_charged_to_no_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(check, "_serve", _never_begin)
        made = Checkers(IntakeSettings(intake_children=1))

        with pytest.raises(EngineError, match="has not started"):
            made.check(OWNER, pictures.plain())

    assert made.check(OWNER, pictures.plain()).code == OK
    made.close()


def test_a_check_that_hangs_is_ended(checkers: Checkers) -> None:
    child = next_child(checkers)
    os.kill(child, signal.SIGSTOP)

    with pytest.raises(CheckDied, match="too long"):
        checkers.check(OWNER, pictures.plain())

    assert not os.path.exists(f"/proc/{child}")
    assert checkers.check(OWNER, pictures.plain()).code == OK


#: Much to draw in few bytes: a thousand blurs of the whole drawing, one after the other.
BLURS = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="100" height="100"><filter id="f">'
    + '<feGaussianBlur stdDeviation="40"/>' * 1_000
    + '</filter><rect width="100" height="100" filter="url(#f)"/></svg>'
).encode()


def test_an_image_that_has_used_up_its_processor_time_is_given_up(checkers: Checkers) -> None:
    with pytest.raises(CheckDied, match="too long"):
        checkers.draw(OWNER, BLURS)

    assert checkers.check(OWNER, pictures.plain()).code == OK


_PARENT = """
import time
from workers.intake.check import Checkers
from workers.settings import IntakeSettings

if __name__ == "__main__":
    made = Checkers(IntakeSettings(intake_children=1))
    made.check(1, b"junk")  # so that the child has begun
    print(*(child.process.pid for child in made.idle.queue), flush=True)
    time.sleep(600)
"""


def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(_PARENT)
    with subprocess.Popen(
        [sys.executable, tmp_path / "parent.py"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},  # noqa: TID251 - for a process of its own
    ) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        os.kill(child, signal.SIGSTOP)  # as busy as can be: it does not see its pipe closed
        parent.kill()

    servers.wait_until(lambda: not servers.is_running(child))
