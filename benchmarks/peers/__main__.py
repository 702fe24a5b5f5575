"""`make bench-peers`: the whole service against what one would put together without it.

    service   files ─▶ upload ─▶ intake ─▶ job ─▶ engine ─▶ rows and references ─▶ results read
    ray       files ─▶ Ray Data: read ─▶ map_batches in actors ─▶ rows in memory
    litserve  files ─▶ POST, base64 ─▶ LitServe gathers batches ─▶ answers to the client

The same checkpoint, pictures, prompt and cores. The peers call transformers as its documentation
does, keep nothing, check nothing and try nothing again; the service stores every picture, row and
answer durably. How each is best set up (size of batches, processes with how many threads) is tried
first, and the best of its settings runs in turn with the others', in one sitting. Loading models is
left out for all. Expected before the first run, on two cores: 1.3 and 1.5, because the
engine is 1.1 to 1.4 times as fast as batches there, and the peers' overhead is more than ours.
"""

import argparse
import asyncio
import base64
import json
import os
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from benchmarks import workload
from benchmarks.figures import spread
from idefiq import Client
from idefiq.up import Stack
from tests.servers import free_port
from workers.demo.draw import draw
from workers.families.checkpoints import DEMO

#: Requests under way at a time, as many as the largest batch and as many that wait.
UNDER_WAY = 128
START_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class SetUp:
    """Configuration of a peer."""

    batch: int
    actors: int
    threads: int

    @property
    def words(self) -> list[str]:
        """On its command line."""
        return [
            *("--batch", str(self.batch), "--actors", str(self.actors)),
            *("--threads", str(self.threads)),
        ]


#: Both cores for one process, or one for each of two.
SHAPES = ((1, 2), (2, 1))
BATCHES = {"demo": (16, 32, 64), "mid": (16, 32)}
#: The engine has no batches.
OURS = [SetUp(0, *shape) for shape in SHAPES]

Said = dict[str, str]
#: Pictures in a folder ─▶ items per second, and the answers by file name.
Arm = Callable[[Path], tuple[float, Said]]


@dataclass(frozen=True, slots=True)
class Arms:
    """The service, and the peers' programs in an environment of their own, with one model."""

    python: Path
    model: Path

    def service(self, set_up: SetUp) -> Arm:
        """Use a fresh service: upload, submit, wait, read the results."""

        def answer(pictures: Path) -> tuple[float, Said]:
            extra = {
                "IDEFIQ_FEATURES_BYTES": "0",
                "IDEFIQ_REUSE_ANSWERS": "false",
                "IDEFIQ_TORCH_THREADS": str(set_up.threads),
                "IDEFIQ_MODEL_PATH": str(self.model),
            }
            with tempfile.TemporaryDirectory() as name:
                data = Path(name) / "data"
                log, models = data.with_suffix(".log"), ["model"] * set_up.actors
                stack = Stack(data, port=0, models=models, log=log, extra=extra)
                with stack.running(), Client(stack.url) as client:
                    _wait_for(data / "idefiq.db", set_up.actors)
                    paths = sorted(pictures.iterdir())
                    _caption(client, paths[:4])  # lazy set-up
                    began = time.monotonic()
                    said = _caption(client, paths)
                    return len(paths) / (time.monotonic() - began), said

        return answer

    def ray(self, set_up: SetUp) -> Arm:
        """Ray Data."""

        def answer(pictures: Path) -> tuple[float, Said]:
            command = self._command("ray_data", str(self.model), str(pictures), *set_up.words)
            output = subprocess.check_output(
                command, env=self._env, text=True, stderr=subprocess.DEVNULL
            )
            told = json.loads(output.splitlines()[-1])
            return told["rate"], told["said"]

        return answer

    def litserve(self, set_up: SetUp) -> Arm:
        """LitServe."""

        def answer(pictures: Path) -> tuple[float, Said]:
            with self._serving(set_up) as url:
                return asyncio.run(_ask_all(url, sorted(pictures.iterdir())))

        return answer

    @contextmanager
    def _serving(self, set_up: SetUp) -> Iterator[str]:
        port = free_port()
        command = self._command("lit_serve", str(self.model), "--port", str(port), *set_up.words)
        process = subprocess.Popen(
            command,
            env=self._env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_healthy(url, process)
            yield url
        finally:
            # Its workers outlive it, and look for requests without a pause.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _command(self, program: str, *words: str) -> list[str]:
        return [str(self.python), "-m", f"benchmarks.peers.{program}", *words]

    @property
    def _env(self) -> dict[str, str]:
        inherited = dict(os.environ)  # noqa: TID251 - handed on to the processes
        return {**inherited, "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1"}


def _wait_healthy(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx2.get(f"{url}/health").status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit("LitServe did not start")


async def _ask_all(url: str, paths: Sequence[Path]) -> tuple[float, Said]:
    said: Said = {}
    limits = httpx2.Limits(max_connections=UNDER_WAY)
    async with httpx2.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        places = asyncio.Semaphore(UNDER_WAY)

        async def ask(path: Path) -> None:
            async with places:
                image = base64.b64encode(path.read_bytes()).decode()
                answer = await client.post("/predict", json={"name": path.name, "image": image})
                answer.raise_for_status()
                said[path.name] = answer.json()["text"]

        await asyncio.gather(*map(ask, paths[:4]))  # lazy set-up
        began = time.monotonic()
        await asyncio.gather(*map(ask, paths))
        return len(paths) / (time.monotonic() - began), said


def _wait_for(record: Path, engines: int) -> None:
    """The service is ready with its first engine; all are to be there."""
    query = "SELECT count(DISTINCT worker) FROM sessions WHERE stage = 'generate'"
    with sqlite3.connect(record) as connection:
        while connection.execute(query).fetchone()[0] < engines:
            time.sleep(0.2)


def _caption(client: Client, paths: Sequence[Path]) -> Said:
    items = []
    for image, path in zip(client.upload(paths), paths, strict=True):
        least, most = workload.tokens_of(path.name)
        options = {"min_new_tokens": least, "max_new_tokens": most}
        items.append({"images": [image], "custom_id": path.name, "options": options})
    job = client.wait(client.submit(items))
    return {str(one.custom_id): str(one.answer) for one in client.results(job)}


def measure(python: Path, name: str, items: int, rounds: int) -> dict[str, Any]:
    """Try all settings on a part of the pictures, then run the best of each in turn."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        few, model = folder / "few", DEMO
        # Two of the largest batches at least for each of two actors, or none would be full.
        tuned_on = 4 * max(BATCHES[name])
        if name == "demo":
            draw(few, tuned_on, seed=1)
        else:
            model = folder / "model"
            workload.mid(model)
            workload.save_photos(few, tuned_on)
        set_ups = [SetUp(batch, *shape) for batch in BATCHES[name] for shape in SHAPES]
        arms = Arms(python, model)
        made: dict[str, tuple[Callable[[SetUp], Arm], list[SetUp]]] = {
            "service": (arms.service, OURS),
            "ray": (arms.ray, set_ups),
            "litserve": (arms.litserve, set_ups),
        }
        tried = {
            arm: {set_up: make(set_up)(few)[0] for set_up in set_ups}
            for arm, (make, set_ups) in made.items()
        }
        best = {arm: max(rates, key=rates.__getitem__) for arm, rates in tried.items()}
        rates: dict[str, list[float]] = {arm: [] for arm in made}
        said: dict[str, Said] = {}
        peers = ("ray", "litserve")
        equal = dict.fromkeys(peers, 0)
        for number in range(rounds):
            pictures = folder / f"round {number}"
            if name == "demo":
                draw(pictures, items, seed=100 + number)
            else:
                workload.save_photos(pictures, items, first=items * (number + 1))
            order = list(made)[number % 3 :] + list(made)[: number % 3]
            for arm in order:
                make, _ = made[arm]
                rate, said[arm] = make(best[arm])(pictures)
                rates[arm].append(rate)
            for peer in peers:
                ours = said["service"]
                equal[peer] += sum(said[peer][one] == ours[one] for one in ours)
    return {
        "model": name,
        "items": items,
        "tried": {arm: {str(s): r for s, r in rates.items()} for arm, rates in tried.items()},
        "best": {arm: str(set_up) for arm, set_up in best.items()},
        "items_per_second": rates,
        "ratio": {
            peer: spread([s / p for s, p in zip(rates["service"], rates[peer], strict=True)])
            for peer in peers
        },
        "equal": equal,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The whole service ÷ Ray Data and LitServe.")
    parser.add_argument("--python", type=Path, default=Path("build/peers/bin/python"))
    parser.add_argument("--models", nargs="+", default=["demo", "mid"])
    parser.add_argument("--items", type=int, nargs="+", default=[1_500, 128])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("build/bench-peers.json"))
    arguments = parser.parse_args()
    told = []
    for name, items in zip(arguments.models, arguments.items, strict=True):
        figures = measure(arguments.python, name, items, arguments.rounds)
        told.append(figures)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(told, indent=2))
        ratios = ", ".join(
            f"{peer} {one['median']:.2f} ({one['min']:.2f} – {one['max']:.2f})"
            for peer, one in figures["ratio"].items()
        )
        print(
            f"bench-peers {name}: service ÷ {ratios}, n {arguments.rounds};"
            f" best settings {figures['best']};"
            f" equal of {items * arguments.rounds}: {figures['equal']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
