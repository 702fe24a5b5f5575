"""The resident loop."""

import threading
from collections.abc import Callable

import pytest

from db.vocabulary.errors import StorageError
from tests import servers
from tests.servers import PATIENCE_SECONDS
from workers import loop as loop_module
from workers.loop import ResidentLoop


def run(look: Callable[[], bool], lanes: int = 1, poll_seconds: float = 600) -> ResidentLoop:
    made = ResidentLoop(look, lanes=lanes, poll_seconds=poll_seconds, name="lane")
    made.start()
    return made


def test_the_loop_polls_while_there_is_work_and_then_waits_for_a_wake() -> None:
    answers, seen = [True, True, False, False], threading.Semaphore(0)

    def look() -> bool:
        seen.release()
        return answers.pop(0) if answers else False

    loop = run(look)
    for _ in range(3):
        assert seen.acquire(timeout=PATIENCE_SECONDS)
    loop.wake()

    assert seen.acquire(timeout=PATIENCE_SECONDS)
    loop.stop()


def test_the_loop_polls_without_a_wake_after_the_poll_interval() -> None:
    seen = threading.Semaphore(0)

    def look() -> bool:
        seen.release()
        return False

    loop = run(look, poll_seconds=0.05)

    assert all(seen.acquire(timeout=PATIENCE_SECONDS) for _ in range(3))
    loop.stop()


def test_no_error_ends_a_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[Exception] = [StorageError("away"), ZeroDivisionError()]
    survived = threading.Event()
    monkeypatch.setattr(loop_module, "FAILURE_PAUSE_SECONDS", 0.01)

    def look() -> bool:
        if errors:
            raise errors.pop()
        survived.set()
        return False

    loop = run(look, poll_seconds=0.05)
    assert survived.wait(PATIENCE_SECONDS)
    loop.stop()


def test_stopping_waits_for_the_lanes_and_starts_nothing_more() -> None:
    begun, end, looks = threading.Event(), threading.Event(), []

    def look() -> bool:
        looks.append(1)
        begun.set()
        end.wait(PATIENCE_SECONDS)
        return True

    loop = run(look)
    begun.wait(PATIENCE_SECONDS)
    stopper = threading.Thread(target=loop.stop)
    stopper.start()
    servers.wait_until(loop.stopping.is_set)
    still_running = stopper.is_alive()
    end.set()
    stopper.join(PATIENCE_SECONDS)

    assert (still_running, stopper.is_alive(), len(looks)) == (True, False, 1)
