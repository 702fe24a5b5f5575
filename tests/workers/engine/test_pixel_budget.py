"""The budget of pixels that loaders decode at the same time."""

import subprocess
import sys
import threading

from tests import servers
from workers.engine.pixel_budget import PixelBudget


class Loader:
    """A thread that asks for pixels and holds them until it is let go."""

    def __init__(self, budget: PixelBudget, pixels: int) -> None:
        self.has, self._let_go = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(budget, pixels))
        self._thread.start()

    def _run(self, budget: PixelBudget, pixels: int) -> None:
        with budget.holding(pixels):
            self.has.set()
            self._let_go.wait()

    def end(self) -> None:
        self._let_go.set()
        self._thread.join()


def test_loaders_decode_as_much_as_the_budget_holds_in_the_order_in_which_they_ask() -> None:
    budget = PixelBudget(100)
    first = Loader(budget, 60)
    first.has.wait()
    large = Loader(budget, 70)
    servers.wait_until(lambda: budget.waiting() == 1)
    small = Loader(budget, 10)
    servers.wait_until(lambda: budget.waiting() == 2)

    assert not large.has.is_set()
    assert not small.has.is_set(), "a large image must not wait for ever behind small ones"
    first.end()
    large.has.wait()
    small.has.wait()
    large.end()
    small.end()


def test_more_than_the_budget_is_decoded_alone() -> None:
    budget = PixelBudget(100)
    small = Loader(budget, 1)
    small.has.wait()
    huge = Loader(budget, 1_000)
    servers.wait_until(lambda: budget.waiting() == 1)

    assert not huge.has.is_set()
    small.end()
    huge.has.wait()
    huge.end()


def test_an_engine_keeps_nothing_of_large_images() -> None:
    """Twelve WebPs of 49 megapixels, two at a time: what is held is two, and afterwards nothing."""
    code = """
import io, threading
from PIL import Image
from workers.engine.pixel_budget import PixelBudget
from workers.images import decode, decoded_pixels

buffer = io.BytesIO()
Image.new("RGBA", (7000, 7000), (9, 8, 200, 128)).save(buffer, "WEBP", lossless=True, method=0)
data, budget = buffer.getvalue(), PixelBudget(100_000_000)

def mebibytes(name):
    [line] = [line for line in open("/proc/self/status") if line.startswith(name)]
    return int(line.split()[1]) // 1024

def load():
    for _ in range(3):
        with budget.holding(decoded_pixels(data)):
            decode(data).resize((384, 384))

before = mebibytes("VmRSS")
threads = [threading.Thread(target=load) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(mebibytes("VmHWM") - before, mebibytes("VmRSS") - before)
"""
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    most, after = map(int, found.split())

    assert most < 1_900  # two of 16 bytes a pixel; four would be 3,100
    assert after < 200
