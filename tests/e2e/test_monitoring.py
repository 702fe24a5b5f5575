"""Metrics of a real run in a real Prometheus: every panel has data."""

import itertools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.dashboards import PANELS
from idefiq import Client, Job
from idefiq.types import Item
from idefiq.up import Stack
from tests import pictures, servers
from tests.e2e.conftest import Env, Start
from tests.servers import PATIENCE_SECONDS, Prometheus

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
QUERIES = [
    (f"{name}: {panel.title}", query.replace("$__rate_interval", "10s").replace("[1h]", "[10s]"))
    for name, panels in PANELS.items()
    for panel in panels
    for query, _ in panel.queries
]


def prometheus(folder: Path, stack: Stack, first: int) -> Prometheus:
    api = int(stack.url.rpartition(":")[2])
    targets = {"idefiq-api": [api], "idefiq-workers": [first, first + 1, first + 2]}
    return Prometheus(folder, targets, (MONITORING / "alerts.yml").read_text())


def submit(client: Client, folder: Path, numbers: Iterator[int]) -> Job:
    """A job of new images, one that was asked about before, one cut answer and one failure."""
    paths = []
    for size in (30, *(40 + next(numbers) for _ in range(4))):
        paths.append(folder / f"{size}.png")
        paths[-1].write_bytes(pictures.plain(size=(size, 40)))
    asked: list[Item] = [{"kind": "caption", "images": [ref]} for ref in client.upload(paths)]
    asked[-1]["options"] = {"max_new_tokens": 1}
    asked.append({"kind": "caption", "images": ["https://localhost/refused.png"]})
    return client.submit(asked)


def test_every_panel_of_every_dashboard_shows_data_of_a_real_run(
    embedded: Env, start: Start, tmp_path: Path
) -> None:
    first = servers.three_ports()
    with (
        start("demo", embedded, metrics_port=str(first), keys="beyond-loopback") as (stack, client),
        prometheus(tmp_path, stack, first) as scraping,
    ):
        numbers, empty = itertools.count(), dict(QUERIES)

        def all_have_data() -> bool:
            client.wait(submit(client, tmp_path, numbers), seconds=PATIENCE_SECONDS)
            for title, query in list(empty.items()):
                if scraping.query(query):
                    del empty[title]
            return not empty

        try:
            servers.wait_until(all_have_data)
        finally:
            print("without data:", *empty.items(), sep="\n")


@pytest.mark.parametrize("file", ["alerts.yml", "alerts_test.yml"])
def test_promtool_accepts_the_alerts_and_what_they_say_of_each_fault(
    file: str, tmp_path: Path
) -> None:
    if shutil.which("promtool") is None:
        servers.unavailable("promtool", "install the Debian package prometheus")
    (tmp_path / "alerts.yml").write_text((MONITORING / "alerts.yml").read_text())
    (tmp_path / "alerts_test.yml").write_text(
        (Path(__file__).parents[1] / "deploy" / "alerts_test.yml").read_text()
    )
    words = ["check", "rules"] if file == "alerts.yml" else ["test", "rules"]

    checked = subprocess.run(
        ["promtool", *words, file], cwd=tmp_path, capture_output=True, text=True
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr
