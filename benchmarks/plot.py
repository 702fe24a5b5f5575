"""`make plots`: the last figures of every benchmark as one picture, docs/performance.svg.

Reads what the benchmarks have left in build/. A bar is a median, its line the spread of the
rounds, the stroke the goal; all are ratios on a logarithmic scale, 1 is what is compared with.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

BUILD = Path("build")
OUT = Path("docs/performance.svg")
LOW, HIGH = 0.25, 8.0
LEFT, WIDTH, ROW = 390, 420, 24


@dataclass(frozen=True, slots=True)
class Bar:
    """One ratio: its name, its median and spread, and what it is to be at least."""

    name: str
    spread: dict[str, float]
    goal: float | None


#: What is compared in build/bench-engine.json, by its arms.
_ARMS = {
    "loop": ("one image at a time", 4.0),
    "16": ("batches of 16", 2.0),
    "64": ("batches of 64", None),
}
_QUEUE = {"accept": None, "accept until claimable": 0.25, "claim + complete": 0.6, "export": 0.25}


def bars() -> Iterator[Bar]:
    """Bars of the benchmarks that were run here."""
    for figures in _read("engine"):
        for arm, (name, goal) in _ARMS.items():
            label = f"engine ÷ {name}, {figures['model']}"
            yield Bar(label, figures["ratio"][arm], goal)
    for figures in _read("service"):
        yield Bar(f"service ÷ engine alone, {figures['model']}", figures["ratio"], 0.95)
    for figures in _read("peers"):
        for peer, spread in figures["ratio"].items():
            yield Bar(f"service ÷ {peer}, {figures['model']}", spread, 1.5)
    for figures in _read("queue"):
        for name, spread in figures["ratios"].items():
            yield Bar(f"queue ÷ bare SQL: {name}", spread, _QUEUE[name])


def _read(name: str) -> list[dict[str, Any]]:
    path = BUILD / f"bench-{name}.json"
    if not path.exists():
        return []
    told = json.loads(path.read_text())
    return told if isinstance(told, list) else [told]


def _at(ratio: float) -> float:
    share = math.log(ratio / LOW) / math.log(HIGH / LOW)
    return LEFT + WIDTH * min(max(share, 0.0), 1.0)


def draw(shown: list[Bar]) -> str:
    """The picture as SVG."""
    height = ROW * len(shown) + 40
    parts = []
    for tick in (0.25, 0.5, 1, 2, 4, 8):
        at, width = _at(tick), 1.5 if tick == 1 else 0.5
        parts.append(f'<path d="M{at:.0f} 8V{height - 28}" stroke="#888" stroke-width="{width}"/>')
        parts.append(f'<text x="{at:.0f}" y="{height - 12}" text-anchor="middle">{tick:g}</text>')
    for number, bar in enumerate(shown):
        y = 20 + ROW * number
        low, middle, high = (_at(bar.spread[key]) for key in ("min", "median", "max"))
        start, end = sorted((_at(1), middle))
        parts.append(
            f'<text x="{LEFT - 10}" y="{y + 5}" text-anchor="end">{escape(bar.name)}</text>'
        )
        parts.append(
            f'<rect x="{start:.1f}" y="{y - 6}" width="{end - start:.1f}" height="12" class="bar"/>'
        )
        parts.append(f'<path d="M{low:.1f} {y}H{high:.1f}" class="spread"/>')
        if bar.goal:
            goal = _at(bar.goal)
            parts.append(f'<path d="M{goal:.1f} {y - 9}V{y + 9}" class="goal"/>')
        parts.append(f'<text x="{LEFT + WIDTH + 12}" y="{y + 5}">{bar.spread["median"]:.2f}</text>')
    body = "\n".join(parts)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 70} {height}"
 role="img" aria-label="Ratios of all benchmarks with their spread and their goals">
<style>text{{font:13px system-ui,sans-serif;fill:#222}}svg{{background:#fff}}
.bar{{fill:#4b83c3}}.spread{{stroke:#123;stroke-width:2}}.goal{{stroke:#c0392b;stroke-width:3}}</style>
{body}
</svg>
"""


def main() -> None:
    OUT.write_text(draw(list(bars())), encoding="utf-8")
    print(OUT)


if __name__ == "__main__":
    main()
