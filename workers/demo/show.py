"""`make demo`: the whole service on this machine, captioning scenes drawn a moment ago.

draw 48 scenes ─▶ start the stack ─▶ caption and ask, by the command line's own code
                                      └─▶ answers beside the truth, a contact sheet, the end
"""

import argparse
import base64
import html
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idefiq import Client, Job, batch
from idefiq.up import Stack
from workers.demo import scenes, texts
from workers.demo.scenes import CANVASES, Scene

#: Scenes that are captioned, and that are asked each of the questions.
CAPTIONED, ASKED_EACH = 24, 8
QUESTIONS = (
    ("How many shapes are there?", lambda scene: texts.NUMBERS[len(scene.shapes)]),
    ("What color is the background?", lambda scene: scene.background),
    ("What is the background like?", lambda scene: scene.pattern),
)
#: The pictures are drawn this much larger than the model looks at them, to be nicer to look at.
SCALE = 3

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>idefiq demo</title><style>
body{{font:16px/1.4 system-ui,sans-serif;margin:2rem;color:#222;background:#fafafa}}
ul{{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:1rem;padding:0}}
li{{list-style:none;background:#fff;border:1px solid #ddd;border-radius:.5rem;padding:.75rem}}
img{{width:100%;height:12rem;object-fit:contain}} .asked{{color:#666}} .wrong{{color:#a40000}}
</style><h1>idefiq demo</h1><p>{summary}</p><ul>
{cards}
</ul></html>
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """One picture, what was asked of it, and what is true."""

    path: Path
    request: tuple[tuple[str, str], ...]
    truth: str

    @property
    def asked(self) -> str:
        """The question, or that it was a caption."""
        return dict(self.request).get("question", "caption")


def draw(folder: Path, seed: int) -> list[Shown]:
    """Draw the scenes of one demonstration into `folder`."""
    rng = random.Random(seed)
    shown = [
        _drawn(folder, rng, number, (("kind", "caption"),), texts.caption)
        for number in range(CAPTIONED)
    ]
    for question, truth in QUESTIONS:
        request = (("kind", "vqa"), ("question", question))
        shown += [
            _drawn(folder, rng, len(shown) + number, request, truth) for number in range(ASKED_EACH)
        ]
    return shown


def _drawn(folder: Path, rng: random.Random, number: int, request: Any, truth: Any) -> Shown:
    scene: Scene = scenes.sample(rng, shapes=1 + number % 3, canvas=CANVASES[number // 3 % 3])
    path = folder / f"scene-{number:02}.png"
    path.write_bytes(scenes.encode(scene, rng.randrange(2**31), scale=SCALE))
    return Shown(path, request, truth(scene))


def answer(client: Client, shown: Sequence[Shown]) -> dict[Path, batch.Outcome]:
    """Ask the service, a job for each request."""
    outcomes: dict[Path, batch.Outcome] = {}
    for request in dict.fromkeys(one.request for one in shown):
        paths = [one.path for one in shown if one.request == request]
        answered = batch.run(client, paths, request=dict(request), model="demo", report=_quiet)
        outcomes.update(zip(paths, answered, strict=True))
    return outcomes


def _quiet(step: str, done: int, total: int, job: Job | None) -> None:
    """No bar: the answers themselves are printed."""


def contact_sheet(shown: Sequence[Shown], said: dict[Path, batch.Outcome], summary: str) -> str:
    """A page with every picture, its answer and, where that is wrong, the truth."""
    cards = []
    for one in shown:
        picture = base64.b64encode(one.path.read_bytes()).decode()
        text = said[one.path].answer or f"failed: {said[one.path].error}"
        right = text == one.truth
        mark = "" if right else f'<br><span class="wrong">truth: {html.escape(one.truth)}</span>'
        cards.append(
            f'<li><img alt="{html.escape(text)}" src="data:image/png;base64,{picture}">'
            f'<span class="asked">{html.escape(one.asked)}</span><br>{html.escape(text)}{mark}</li>'
        )
    return PAGE.format(summary=html.escape(summary), cards="\n".join(cards))


def main() -> int:
    parser = argparse.ArgumentParser(description="Caption scenes that were just drawn.")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--out", type=Path, default=Path("build/demo"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        shown = draw(Path(folder), arguments.seed)
        print(f"drew {len(shown)} scenes (seed {arguments.seed}); starting the service", flush=True)
        log = arguments.out / "service.log"
        log.unlink(missing_ok=True)
        stack = Stack(Path(folder) / "data", port=0, models=["demo"], log=log)
        with stack.running(), Client(stack.url) as client:
            began = time.monotonic()
            said = answer(client, shown)
            seconds = time.monotonic() - began
        answered = sum(said[one.path].answer is not None for one in shown)
        right = sum(said[one.path].answer == one.truth for one in shown)
        for one in shown:
            mark = "✓" if said[one.path].answer == one.truth else "✗"
            print(f"{mark} {one.asked}: {said[one.path].answer or said[one.path].error}")
            if mark == "✗":
                print(f"  truth: {one.truth}")
        summary = (
            f"demo: {answered}/{len(shown)} answered, {right}/{len(shown)} exactly right,"
            f" {len(shown) / seconds:.1f} images/s"
        )
        sheet = arguments.out / "index.html"
        sheet.write_text(contact_sheet(shown, said, summary), encoding="utf-8")
    print(f"pictures and answers: {sheet}\n{summary}")
    return 0 if answered == len(shown) else 1


if __name__ == "__main__":
    sys.exit(main())
