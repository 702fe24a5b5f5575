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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from idefiq import Client
from idefiq.bulk.ask import Ask, Plan
from idefiq.bulk.images import Image
from idefiq.bulk.manifest import Manifest
from idefiq.bulk.outputs import resolve
from idefiq.bulk.run import Run
from idefiq.up import Stack
from workers.demo import scenes, texts
from workers.demo.scenes import CANVASES, Scene

#: Scenes that are captioned, that are asked each question, and that each other kind gets.
CAPTIONED, ASKED_EACH, OTHERS = 16, 4, 4
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


Truth = Callable[[Scene], str]


@dataclass(frozen=True, slots=True)
class Shown:
    """One picture, what was asked of it, and what is true.

    Attributes:
        asked: For people.
        example: A solved example that is shown before it: its picture and its answer.
    """

    path: Path
    asked: str
    request: dict[str, Any]
    truth: str
    example: tuple[Path, str] | None = None


class Drawer:
    """Draws scenes into a folder, each with a request for it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._rng = folder, random.Random(seed)
        self.shown: list[Shown] = []

    def scene(self, shapes: int | None = None) -> tuple[Scene, Path]:
        """A new scene and its file; the numbers of shapes and the canvases take turns."""
        number = len(list(self._folder.iterdir()))
        scene = scenes.sample(
            self._rng, shapes=shapes or 1 + number % 3, canvas=CANVASES[number // 3 % 3]
        )
        path = self._folder / f"scene-{number:02}.png"
        path.write_bytes(scenes.encode(scene, self._rng.randrange(2**31), scale=SCALE))
        return scene, path

    def show(self, count: int, asked: str, request: dict[str, Any], truth: Truth) -> None:
        """The same request for some scenes."""
        for _ in range(count):
            # Labels name shapes, of which just one may be there.
            scene, path = self.scene(1 if request["kind"] == "classify" else None)
            self.shown.append(Shown(path, asked, request, truth(scene)))


def draw(folder: Path, seed: int) -> list[Shown]:
    """Draw the scenes of one demonstration into `folder`, some for every kind."""
    drawer = Drawer(folder, seed)
    drawer.show(CAPTIONED, "caption", {"kind": "caption"}, texts.caption)
    for question, truth in QUESTIONS:
        drawer.show(ASKED_EACH, question, {"kind": "vqa", "question": question}, truth)
    drawer.show(
        OTHERS,
        "classify: which shape?",
        {
            "kind": "classify",
            "labels": list(scenes.KINDS),
            "template": "{images}Choose a category: {labels}.",
        },
        lambda scene: scene.shapes[0].kind,
    )
    drawer.show(
        OTHERS,
        "classify, all labels ranked: which background?",
        {
            "kind": "classify",
            "method": "rank",
            "labels": list(scenes.BACKGROUNDS),
            "template": "{images}What color is the background?",
        },
        lambda scene: scene.background,
    )
    detail = {"kind": "generate", "prompt": "Describe the image in detail."}
    drawer.show(OTHERS, "generate: describe it in detail", detail, texts.detailed_caption)
    for _ in range(OTHERS):
        scene, path = drawer.scene()
        request = {"kind": "chat", "messages": _conversation(texts.caption(scene))}
        asked = "chat: a caption, and then: how many shapes?"
        drawer.shown.append(Shown(path, asked, request, texts.NUMBERS[len(scene.shapes)]))
    solved, example = drawer.scene()
    question, truth = QUESTIONS[1]
    for _ in range(OTHERS):
        scene, path = drawer.scene()
        request = {"kind": "vqa", "question": question}
        asked = f"after one solved example: {question}"
        drawer.shown.append(Shown(path, asked, request, truth(scene), (example, truth(solved))))
    return drawer.shown


def _conversation(caption: str) -> list[dict[str, Any]]:
    def text(words: str) -> dict[str, str]:
        return {"type": "text", "text": words}

    shown = {"type": "image", "index": 0}
    return [
        {"role": "user", "content": [shown, text("Describe the image.")]},
        {"role": "assistant", "content": [text(caption)]},
        {"role": "user", "content": [text("How many shapes are there?")]},
    ]


def answer(client: Client, shown: Sequence[Shown]) -> dict[Path, Image]:
    """Ask the service as the command line does, a run for each request."""
    said: dict[Path, Image] = {}
    for key, some in groupby(shown, key=lambda one: (one.request, one.example)):
        request, example = key
        if example:
            [image] = client.upload([example[0]])
            request = {**request, "examples": [{"image": image, "text": example[1]}]}
        plan = Plan(sources=[str(one.path) for one in some], ask=Ask(request), model="demo")
        manifest = Manifest(None)
        manifest.begin(plan)
        run = Run(client, resolve(plan), manifest, _quiet)
        run.scan()
        run.work()
        said.update({Path(image.key): image for image in manifest.images("done", "failed")})
        manifest.close()
    return said


def _quiet(counts: dict[str, int], rate: float | None) -> None:
    """No bar: the answers themselves are printed."""


def contact_sheet(shown: Sequence[Shown], said: dict[Path, Image], summary: str) -> str:
    """A page with every picture, its answer and, where that is wrong, the truth."""
    cards = []
    for one in shown:
        picture = base64.b64encode(one.path.read_bytes()).decode()
        text = said[one.path].said or f"failed: {said[one.path].error}"
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
        answered = sum(said[one.path].said is not None for one in shown)
        right = sum(said[one.path].said == one.truth for one in shown)
        for one in shown:
            mark = "✓" if said[one.path].said == one.truth else "✗"
            print(f"{mark} {one.asked}: {said[one.path].said or said[one.path].error}")
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
