"""The greedy neighbour: ten owners, of whom one takes all it can, in each of several ways.

The nine others each ask about one small image of their own, again and again. What is measured is
how long their answers take beside the tenth, and how long they take while it does nothing.
"""

import base64
import contextlib
import http.server
import io
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from PIL import Image

from db import owners
from db.sql.database import Database
from idefiq import Client
from tests import pictures
from tests.faults.surroundings import Surroundings
from tests.faults.world import World, world
from tests.faults.zygote import Zygote

VICTIMS = 9
#: Small jobs of each victim while one greedy way is measured.
ROUNDS = 4
#: What the greedy owner has a start of before the others are measured.
HEAD_START_SECONDS = 2.0
ENDPOINT = "/v1/chat/completions"
_numbers = itertools.count()


@dataclass
class Waits:
    """Seconds from a submission to its answer, by greedy way; "alone" is without any."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def table(self) -> str:
        """The longest waits, beside those of owners whose neighbour is quiet."""
        alone = _p99(self.seconds["alone"])
        lines = ["| one owner of ten | p99 wait of the others ÷ alone |", "|---|---:|"]
        lines += [
            f"| {way} | {_p99(waits) / alone:.1f} |"
            for way, waits in self.seconds.items()
            if way != "alone"
        ]
        return "\n".join(lines)


def _p99(waits: list[float]) -> float:
    return sorted(waits)[min(len(waits) - 1, int(len(waits) * 0.99))]


class Greedy:
    """The tenth owner. Each way begins to take, and returns when it has asked for all it can."""

    def __init__(self, service: World, key: str, slow_port: int) -> None:
        self._service, self._slow_port = service, slow_port
        self._headers = {"Authorization": f"Bearer {key}"}
        self.client = Client(service.url, key, timeout_seconds=600)
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def ways(self) -> dict[str, Callable[[], object]]:
        """By what the table says of them."""
        return {
            "asks about 256 images on servers that never answer": self._slow_servers,
            "uploads 40 images that take long to check": self._heavy_images,
            "holds 16 conversations without a pause": self._conversations,
            "creates batches of 3,000 lines with images": self._batches,
            "streams 8 jobs of 20,000 items": self._streams,
            "opens 500 connections and asks nothing": self._connections,
            "sends 8 MB of JSON without a key, over and over": self._bodies,
        }

    def stop(self) -> None:
        """End what runs, and cancel what waits."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._stopping.clear()
        for job in self.client.jobs():
            if not job.is_final:
                self.client.cancel(job)

    def _run(self, work: Callable[[httpx2.Client], object]) -> None:
        """Do something again and again in a thread, whatever the service answers."""

        def run() -> None:
            with httpx2.Client(base_url=self._service.url, timeout=600) as http:
                while not self._stopping.is_set():
                    with contextlib.suppress(httpx2.TransportError):
                        work(http)

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    def _slow_servers(self) -> None:
        urls = [f"http://127.0.0.{2 + n % 70}:{self._slow_port}/{n}.png" for n in range(256)]
        self.client.submit([{"images": [url]} for url in urls])

    def _heavy_images(self) -> None:
        noise = Image.effect_noise((5_000, 5_000), 90)
        buffer = io.BytesIO()
        noise.save(buffer, "JPEG", progressive=True, quality=60)
        images = [buffer.getvalue() + bytes([n]) for n in range(40)]
        references = [ref for image in images for ref in self._upload(image)]
        self.client.submit([{"images": [ref]} for ref in references])

    def _upload(self, image: bytes) -> list[str]:
        with httpx2.Client(base_url=self._service.url, headers=self._headers) as http:
            sent = http.post("/v1/images", files={"file": ("x.jpg", image)}, timeout=600)
            return [each["image"] for each in sent.json()["data"]]

    def _conversations(self) -> None:
        body = {"model": "echo", "messages": [{"role": "user", "content": "again?"}]}
        for _ in range(16):
            self._run(lambda http: http.post(ENDPOINT, json=body, headers=self._headers))

    def _batches(self) -> None:
        def create(http: httpx2.Client) -> None:
            url = "data:image/png;base64," + base64.b64encode(pictures.plain()).decode()
            content = [{"type": "image_url", "image_url": {"url": url}}]
            lines = []
            for number in range(3_000):
                messages = [{"role": "user", "content": content}]
                asked: dict[str, Any] = {"model": "echo", "messages": messages}
                named = {"custom_id": f"{number}", "method": "POST", "url": ENDPOINT}
                lines.append(json.dumps({**named, "body": asked}))
            sent = http.post(
                "/v1/files",
                data={"purpose": "batch"},
                files={"file": ("in.jsonl", "\n".join(lines).encode())},
                headers=self._headers,
            )
            wanted = {"endpoint": ENDPOINT, "completion_window": f"{next(_numbers) + 1}m"}
            created = {"input_file_id": sent.json()["id"], **wanted}
            http.post("/v1/batches", json=created, headers=self._headers)

        for _ in range(2):
            self._run(create)

    def _streams(self) -> None:
        def items() -> Iterator[dict[str, Any]]:
            for number in range(20_000):
                yield {"kind": "generate", "prompt": f"greedy {number}"}

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda _: self.client.submit(items()), range(8)))

    def _connections(self) -> None:
        def hold(http: httpx2.Client) -> None:
            with contextlib.ExitStack() as opened:
                for _ in range(500):
                    with contextlib.suppress(OSError):
                        one = socket.create_connection(("127.0.0.1", self._service.port), 5)
                        opened.enter_context(one)
                        one.sendall(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
                self._stopping.wait(5)

        self._run(hold)

    def _bodies(self) -> None:
        body = b"[" + b"1," * (4 * 2**20 - 10) + b"1]"
        headers = {"content-type": "application/json"}
        for _ in range(8):
            self._run(lambda http: http.post("/v1/jobs", content=body, headers=headers))


class _Silent(http.server.BaseHTTPRequestHandler):
    """Answers when the round is over."""

    over = threading.Event()

    def do_GET(self) -> None:
        self.over.wait(600)

    def log_message(self, *_: object) -> None:
        pass


def play(zygote: Zygote, surroundings: Surroundings, folder: Path) -> Waits:
    """Measure every way, one after the other."""
    _Silent.over.clear()
    silent = http.server.ThreadingHTTPServer(("", 0), _Silent)
    silent.daemon_threads = True
    threading.Thread(target=silent.serve_forever, daemon=True).start()
    settings = {
        "keys": "always",
        "fetch_networks": '["127.0.0.0/8"]',
        "fetch_ports": f"[{silent.server_port}]",
        "reuse_answers": "false",
    }
    waits = Waits()
    with (
        _quietly(silent),
        world(zygote, surroundings, folder, engines=1, **settings) as service,  # type: ignore[arg-type]
        contextlib.ExitStack() as opened,
    ):
        keys = _keys(surroundings, ["greedy", *(f"owner-{n}" for n in range(VICTIMS))])
        greedy = Greedy(service, keys.pop(0), silent.server_port)
        clients = [opened.enter_context(Client(service.url, key)) for key in keys]
        opened.enter_context(greedy.client)
        waits.seconds["alone"] = _ask_all(clients, folder)
        for way, take in greedy.ways.items():
            taking = threading.Thread(target=take)
            taking.start()
            time.sleep(HEAD_START_SECONDS)
            waits.seconds[way] = _ask_all(clients, folder)
            taking.join()
            greedy.stop()
    return waits


@contextlib.contextmanager
def _quietly(server: http.server.ThreadingHTTPServer) -> Iterator[None]:
    try:
        yield
    finally:
        _Silent.over.set()
        server.shutdown()
        server.server_close()


def _keys(surroundings: Surroundings, names: list[str]) -> list[str]:
    database = Database(surroundings.direct_url)
    made = []
    for name in names:
        with database.transaction() as transaction:
            owner = owners.get_or_create(transaction, name)
            made.append(owners.create_key(transaction, owner))
    database.dispose()
    return made


def _ask_all(clients: list[Client], folder: Path) -> list[float]:
    """All victims at the same time, each a few times. Returns how long each answer took."""

    def ask(client: Client) -> list[float]:
        waits = []
        for _ in range(ROUNDS):
            path = folder / f"small-{next(_numbers)}.png"
            path.write_bytes(pictures.plain(size=(5 + next(_numbers) % 900, 7)))
            began = time.monotonic()
            [reference] = client.upload(path)
            client.wait(client.submit([{"images": [reference]}]), seconds=600)
            waits.append(time.monotonic() - began)
        return waits

    with ThreadPoolExecutor(len(clients)) as threads:
        return [wait for some in threads.map(ask, clients) for wait in some]
