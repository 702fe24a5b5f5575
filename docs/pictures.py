"""`make pictures`: the dashboards and `idefiq top` as a real run fills them, as docs/*.svg.

A service with the demonstration model works for RUN_SECONDS, and a Prometheus scrapes it. Each
panel of docs/dashboards.py is queried as Grafana would, and drawn; Grafana itself is not needed.
"""

import itertools
import os
import random
import re
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import Path
from typing import Any

import httpx2
from rich.console import Console
from rich.text import Text

from docs.dashboards import PANELS, Panel
from idefiq import Client
from idefiq.cli.top import Look, frame
from idefiq.up import Stack
from tests import pictures, servers
from tests.servers import Prometheus

DOCS = Path(__file__).parent
RUN_SECONDS, POINTS = 90, 45
#: Layout in pixels: a panel, its plot within it, and panels in a row.
PANEL_WIDTH, PANEL_HEIGHT, PLOT_HEIGHT, PER_ROW = 380, 214, 120, 3
LEFT, TOP, LINE = 52, 34, 14
COLORS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#37872d", "#8ab8ff")
#: Lines of a panel whose legend is shown; all are drawn.
LEGENDS = 3
#: Times at which `idefiq top` is recorded, in seconds of the run.
LOOKS = (2, 30, 60)
Points = list[tuple[float, float]]


# ---- the run ------------------------------------------------------------------------


def work(client: Client, folder: Path, until: float) -> None:
    """Submit what a busy afternoon has: captions, questions, repeats and mistakes."""
    chance, number = random.Random(7), itertools.count()
    while time.monotonic() < until:
        paths = []
        for _ in range(chance.choice((4, 12, 24))):
            path = folder / f"{next(number)}.png"
            size = (chance.randrange(64, 320), chance.randrange(64, 320))
            path.write_bytes(pictures.plain(size=size))
            paths.append(path)
        items: list[dict[str, Any]] = [{"images": [one]} for one in client.upload(paths)]
        items[0]["options"] = {"max_new_tokens": 1}
        items += items[:2]
        items.append({"images": ["https://localhost/refused.png"]})
        client.submit(items, name="pictures")
        time.sleep(chance.uniform(0.5, 2.5))


def record_top(client: Client, began: float) -> str:
    """Record `idefiq top` at some times of the run, as SVG."""
    console = Console(record=True, width=118, file=Path(os.devnull).open("w"))  # noqa: SIM115
    for seconds in LOOKS:
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        before = Look.now(client)
        time.sleep(2.0)
        console.print(Text.assemble(("$ ", "bold green"), ("idefiq top", "bold")))
        console.print(frame(before, Look.now(client)))
        console.print()
    picture = console.export_svg(title="idefiq top", unique_id="top")
    return re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL)


# ---- the pictures -------------------------------------------------------------------


def series(scraping: Prometheus, panel: Panel, end: float) -> Iterator[tuple[str, Points]]:
    """Query the lines of a panel: the legend and points of each."""
    for query, legend in panel.queries:
        asked: dict[str, str | float] = {
            "query": query.replace("$__rate_interval", "15s").replace("[1h]", "[60s]"),
            "start": end - RUN_SECONDS,
            "end": end,
            "step": RUN_SECONDS / POINTS,
        }
        answer = httpx2.get(f"{scraping.url}/api/v1/query_range", params=asked)
        answer.raise_for_status()
        for found in answer.json()["data"]["result"]:
            name = legend
            for label, value in found["metric"].items():
                name = name.replace(f"{{{{{label}}}}}", value)
            points = [(at, float(value)) for at, value in found["values"]]
            # What is no number is not drawn.
            yield (
                re.sub(r"\{\{\w+\}\}", "", name).strip(),
                [point for point in points if point[1] == point[1]],
            )


def shown(value: float, unit: str) -> str:
    """Format a value of an axis in its unit."""
    if unit == "percentunit":
        return f"{value:.0%}"
    steps = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
    for size, letter in steps:
        if value >= size:
            return f"{value / size:.3g} {letter}"
    if unit == "s" and 0 < value < 1:
        return f"{value * 1000:.3g} ms"
    return f"{value:.3g}{' s' if unit == 's' else ''}"


def draw_panel(panel: Panel, lines: list[tuple[str, Points]], end: float) -> Iterator[str]:
    """Draw one panel at the origin."""
    highest = max((value for _, points in lines for _, value in points), default=0.0) or 1.0
    width = PANEL_WIDTH - LEFT - 20

    def place(at: float, value: float) -> str:
        x = LEFT + width * (1 - (end - at) / RUN_SECONDS)
        return f"{x:.1f} {TOP + PLOT_HEIGHT * (1 - value / highest):.1f}"

    yield f'<rect width="{PANEL_WIDTH - 8}" height="{PANEL_HEIGHT - 8}" rx="3" fill="#181b1f"/>'
    yield f'<text x="10" y="20" class="title">{escape(panel.title)}</text>'
    for share in (0.0, 0.5, 1.0):
        y = TOP + PLOT_HEIGHT * (1 - share)
        yield f'<path d="M{LEFT} {y:.1f}h{width}" stroke="#2c3235"/>'
        label = shown(highest * share, panel.unit)
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
    for (_, points), color in zip(lines, itertools.cycle(COLORS), strict=False):
        if points:
            path = "L".join(place(*point) for point in points)
            yield f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="1.5"/>'
    for number, ((name, _), color) in enumerate(zip(lines[:LEGENDS], COLORS, strict=False)):
        more = (
            f" … and {len(lines) - LEGENDS} more" if number == LEGENDS - 1 < len(lines) - 1 else ""
        )
        y = TOP + PLOT_HEIGHT + 16 + LINE * number
        yield f'<text x="{LEFT}" y="{y}" fill="{color}">{escape(name[:48] + more)}</text>'


def draw(name: str, scraping: Prometheus, end: float) -> str:
    """Draw a dashboard as SVG."""
    panels = PANELS[name]
    rows = -(-len(panels) // PER_ROW)
    parts = []
    for number, panel in enumerate(panels):
        x, y = number % PER_ROW * PANEL_WIDTH + 8, number // PER_ROW * PANEL_HEIGHT + 8
        lines = list(series(scraping, panel, end))
        parts.append(f'<g transform="translate({x} {y})">')
        parts += draw_panel(panel, lines, end)
        parts.append("</g>")
    width, height = PANEL_WIDTH * PER_ROW + 8, PANEL_HEIGHT * rows + 8
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        ' font-family="sans-serif" font-size="11"><style>text{fill:#ccccdc}'
        ".title{font-size:13px;font-weight:600}</style>"
        f'<rect width="{width}" height="{height}" fill="#111217"/>{"".join(parts)}</svg>\n'
    )


def main() -> None:
    """Run a service and a Prometheus, and write the pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = servers.three_ports()
        extra = {"IDEFIQ_METRICS_PORT": str(first)}
        log = folder / "service.log"
        stack = Stack(folder / "data", port=0, models=["demo"], log=log, extra=extra)
        with stack.running():
            api = int(stack.url.rpartition(":")[2])
            targets = {"idefiq-api": [api], "idefiq-workers": [first, first + 1, first + 2]}
            with (
                Prometheus(folder, targets, "groups: []\n") as scraping,
                Client(stack.url) as client,
            ):
                began = time.monotonic()
                with ThreadPoolExecutor(1) as thread:
                    busy = thread.submit(work, client, folder, began + RUN_SECONDS - 10)
                    top = record_top(client, began)
                    busy.result()
                time.sleep(max(0.0, began + RUN_SECONDS - time.monotonic()))
                end = time.time()
                drawn = {each: draw(each, scraping, end) for each in PANELS}
    for each, picture in drawn.items():
        (DOCS / f"dashboard-{each}.svg").write_text(picture)
    (DOCS / "top.svg").write_text(top)


if __name__ == "__main__":
    main()
