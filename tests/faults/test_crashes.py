"""Every place in the life of an item where a process can die, one after the other."""

import functools
import http.server
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from db import failpoints
from db.vocabulary.errors import RequestError
from idefiq import Client
from tests.faults.history import Asked, History, Pictures
from tests.faults.surroundings import Surroundings
from tests.faults.world import World, world
from tests.faults.zygote import Zygote

#: Who passes each place.
PLACES = [
    ("submitted", "api"),
    ("imported", "upkeep"),
    ("sealed", "upkeep"),
    ("collected", "upkeep"),
    ("stored", "intake"),
    ("checked", "intake"),
    ("claimed", "intake"),
    ("writing", "intake"),
    ("written", "intake"),
    ("claimed", "engine"),
    ("decoded", "engine"),
    ("generating", "engine"),
    ("generated", "engine"),
    ("writing", "engine"),
    ("written", "engine"),
]
#: More than one page of an import.
STREAMED_ITEMS = 2_100


def test_every_place_is_crashed_in() -> None:
    assert {place for place, _ in PLACES} | {"rescuing"} == set(failpoints.PLACES)


@pytest.mark.parametrize("said", ["dance", "kill:x", ""])
def test_a_failpoint_that_does_not_exist_is_refused(said: str) -> None:
    with pytest.raises(RequestError, match="no failpoint claimed="):
        failpoints.arm({"claimed": said})
    with pytest.raises(RequestError, match="no failpoint nowhere="):
        failpoints.arm({"nowhere": "kill"})


class Site:
    """A web server with images that nobody has fetched before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        handler = functools.partial(_Quiet, directory=str(folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def images(self, name: str) -> Pictures:
        """Fresh images, by their addresses."""
        made = Pictures(self._folder / name, count=3, name=name)
        made.paths = {
            f"http://127.0.0.1:{self.port}/{name}/{path.name}": path
            for path in made.paths.values()
            if path.name != "broken.png"
        }
        return made

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


@pytest.fixture
def service(around: Surroundings, forks: Zygote, tmp_path: Path, site: Site) -> Iterator[World]:
    """Quick leases, and images may come from the site."""
    settings: dict[str, Any] = {
        "lease_seconds": "3",
        "heartbeat_seconds": "0.5",
        "poll_seconds": "0.2",
        "echo_batch_seconds": "0",
        "fetch_networks": '["127.0.0.0/8"]',
        "fetch_ports": f"[{site.port}]",
    }
    with world(forks, around, tmp_path / "world", engines=1, **settings) as made:
        yield made


def test_a_process_may_die_at_any_place_and_nothing_is_lost(service: World, site: Site) -> None:
    history = History(service.url)
    for number, (place, role) in enumerate(PLACES):
        asked = site.images(f"{number}").ask_all(f"{place} {role}")
        if place == "imported":
            asked = (asked * STREAMED_ITEMS)[:STREAMED_ITEMS]
        die_at(service, history, role, place, asked)

    verdict = history.judge()

    assert verdict.jobs == len(PLACES)
    assert sum(verdict.numbers.values()) == 0, str(verdict)


def die_at(service: World, history: History, role: str, place: str, asked: list[Asked]) -> None:
    """Submit something while a process is there that dies of it, then let another take over."""
    for process in service.of(role):
        service.end(process, signal.SIGTERM)
    doomed = service.with_failpoint(role, place, "kill")
    with Client(service.url) as client:
        submitting = threading.Thread(target=history.submit, args=(client, asked))
        submitting.start()
        assert service.wait(doomed) == signal.SIGKILL, place
        service.processes.remove(doomed)
        service.start(role)
        submitting.join()


def test_a_worker_that_dies_while_it_rescues_leaves_that_to_the_next(
    service: World, pictures: Pictures
) -> None:
    history = History(service.url)
    with Client(service.url) as client:
        client.upload(list(pictures.paths.values()))
        warm = history.submit(client, pictures.ask_all("a first time"))
        client.wait(warm.job)
        for role in ("intake", "engine"):
            for process in service.of(role):
                service.end(process, signal.SIGTERM)
        # From here on nobody else is there who could rescue.
        holder = service.with_failpoint("engine", "generated", "kill")
        history.submit(client, pictures.ask_all("a second time"))
        assert service.wait(holder) == signal.SIGKILL
        rescuer = service.with_failpoint("engine", "rescuing", "kill")
        assert service.wait(rescuer) == signal.SIGKILL
    service.replace_dead()
    service.start("intake")

    verdict = history.judge()

    assert sum(verdict.numbers.values()) == 0, str(verdict)
