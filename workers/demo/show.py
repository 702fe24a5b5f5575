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
from idefiq.bulk.choose_output import choose_output
from idefiq.bulk.manifest import Manifest
from idefiq.bulk.run import Run
from idefiq.up import Stack
from workers.demo import followups, formats, pairs, scenes, texts
from workers.demo.scenes import CANVASES, Scene

#: Scenes that are captioned, that are asked each question, and that each other kind gets.
CAPTIONED, ASKED_EACH, OTHER_KINDS = 12, 4, 4
#: Fewer right answers than this, of 48, and something is broken: the model does better.
MIN_RIGHT = 43
SHOWN_QUESTIONS = (
    ("How many shapes are there?", lambda scene: texts.NUMBERS[len(scene.shapes)]),
    ("What color is the background?", lambda scene: scene.background),
    ("What is the background like?", lambda scene: scene.pattern),
)
#: The pictures are drawn this much larger than the model looks at them, to be nicer to look at.
SCALE = 3

HTML = """<!doctype html><html lang="en"><meta charset="utf-8"><title>idefiq demo</title><style>
body{{font:16px/1.4 system-ui,sans-serif;margin:2rem;color:#222;background:#fafafa}}
ul{{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:1rem;padding:0}}
li{{list-style:none;background:#fff;border:1px solid #ddd;border-radius:.5rem;padding:.75rem}}
li div{{display:flex;gap:.5rem}}
img{{flex:1;min-width:0;height:12rem;object-fit:contain}}
.asked{{color:#666}} .wrong{{color:#a40000}}
</style><h1>idefiq demo</h1><p>{summary}</p><ul>
{cards}
</ul></html>
"""


Truth = Callable[[Scene], str]


@dataclass(frozen=True, slots=True)
class Shown:
    """A request about one picture or two, and its true answer.

    Attributes:
        asked: For people.
        example: A solved example that is shown before it: its picture and its answer.
    """

    pictures: tuple[Path, ...]
    asked: str
    request: dict[str, Any]
    truth: str
    example: tuple[Path, str] | None = None


class Drawer:
    """Draws scenes into a folder, each with a request for it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self.rng = folder, random.Random(seed)
        self._drawn = 0
        self.shown: list[Shown] = []

    def scene(self, shapes: int | None = None) -> tuple[Scene, Path]:
        """A new scene and its file; the numbers of shapes and the canvases take turns."""
        number = self._drawn
        scene = scenes.sample(
            self.rng, shapes=shapes or 1 + number % 3, canvas=CANVASES[number // 3 % 3]
        )
        return scene, self.picture(scene)

    def picture(self, scene: Scene) -> Path:
        """The file of a scene."""
        path = self._folder / f"scene-{self._drawn:02}.png"
        path.write_bytes(scenes.encode(scene, self.rng.randrange(2**31), scale=SCALE))
        self._drawn += 1
        return path

    def show(self, count: int, asked: str, request: dict[str, Any], truth: Truth) -> None:
        """Ask the same about some scenes."""
        for _ in range(count):
            # Labels name shapes, of which just one may be there.
            scene, path = self.scene(1 if request["kind"] == "classify" else None)
            self.shown.append(Shown((path,), asked, request, truth(scene)))


def draw(folder: Path, seed: int) -> list[Shown]:
    """Draw the scenes of one demonstration into `folder`, some for every kind."""
    drawer = Drawer(folder, seed)
    drawer.show(CAPTIONED, "caption", {"kind": "caption"}, texts.caption)
    for question, truth in SHOWN_QUESTIONS:
        drawer.show(ASKED_EACH, question, {"kind": "vqa", "question": question}, truth)
    drawer.show(
        OTHER_KINDS,
        "classify: which shape?",
        {"kind": "classify", "labels": list(scenes.SHAPES)},
        lambda scene: scene.shapes[0].kind,
    )
    drawer.show(
        OTHER_KINDS,
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
    drawer.show(OTHER_KINDS, "generate: describe it in detail", detail, texts.detailed_caption)
    for _ in range(OTHER_KINDS):
        drawer.shown.append(_conversation(drawer))
    for _ in range(OTHER_KINDS):
        drawer.shown.append(_two(drawer))
    drawer.shown += _after_an_example(drawer)
    return drawer.shown


def _conversation(drawer: Drawer) -> Shown:
    """A second turn that means nothing without the first."""
    while True:
        scene, path = drawer.scene()
        turns = followups.ask_it(scene, drawer.rng)
        if turns:
            break
    (question, first), (then, truth) = turns

    def text(words: str) -> dict[str, str]:
        return {"type": "text", "text": words}

    messages = [
        {"role": "user", "content": [{"type": "image", "index": 0}, text(question)]},
        {"role": "assistant", "content": [text(first)]},
        {"role": "user", "content": [text(then)]},
    ]
    asked = f"chat: {question} – {first} – {then}"
    return Shown((path,), asked, {"kind": "chat", "messages": messages}, truth)


def _two(drawer: Drawer) -> Shown:
    """Two pictures, the second made from the first."""
    scene, path = drawer.scene()
    other = pairs.alter(scene, drawer.rng)
    question, truth = pairs.ask_changed(scene, other, drawer.rng)
    asked = f"two pictures: {question}"
    request = {"kind": "vqa", "question": question}
    return Shown((path, drawer.picture(other)), asked, request, truth)


def _after_an_example(drawer: Drawer) -> list[Shown]:
    """A form that only a solved example shows."""
    form = drawer.rng.choice(formats.TRAINED_FORMATS)
    solved, example = drawer.scene(2)
    shown = []
    for _ in range(OTHER_KINDS):
        scene, path = drawer.scene()
        request = {"kind": "vqa", "question": texts.CAPTION_PROMPTS[0]}
        solution = (example, form.write(solved))
        asked = f"after one solved example: {solution[1]}"
        shown.append(Shown((path,), asked, request, form.write(scene), solution))
    return shown


@dataclass(frozen=True, slots=True)
class Outcome:
    """Answer of one request, or its error."""

    text: str | None
    error: str | None


#: By the pictures of a request.
Outcomes = dict[tuple[Path, ...], Outcome]


def answer(client: Client, shown: Sequence[Shown]) -> Outcomes:
    """Ask the service: of one picture as the command line does, a run for each request."""
    outcomes: Outcomes = {}
    for key, some in groupby(
        (one for one in shown if len(one.pictures) == 1), key=lambda one: (one.request, one.example)
    ):
        outcomes |= _run(client, *key, [str(one.pictures[0]) for one in some])
    of_two = [one for one in shown if len(one.pictures) > 1]
    items = [{**one.request, "images": client.upload(one.pictures)} for one in of_two]
    job = client.wait(client.submit(items, model="demo").id)
    for result in client.results(job.id):
        outcomes[of_two[result.index].pictures] = Outcome(result.text, result.error)
    return outcomes


def _run(
    client: Client, request: dict[str, Any], example: tuple[Path, str] | None, sources: list[str]
) -> Outcomes:
    if example:
        [image] = client.upload([example[0]])
        request = {**request, "examples": [{"image": image, "text": example[1]}]}
    plan = Plan(sources=sources, ask=Ask(request), model="demo")
    manifest = Manifest(None)
    manifest.run.begin(plan)
    run = Run(client, choose_output(plan), manifest, _quiet)
    run.scan()
    run.work()
    outcomes: Outcomes = {
        (Path(image.key),): Outcome(image.answer_text, image.error)
        for image in manifest.images.in_state("done", "failed")
    }
    manifest.close()
    return outcomes


def _quiet(counts: dict[str, int], rate: float | None) -> None:
    """No bar: the answers themselves are printed."""


def contact_sheet(shown: Sequence[Shown], outcomes: Outcomes, summary: str) -> str:
    """A page with every picture, its answer and, where that is wrong, the truth."""
    cards = []
    for one in shown:
        text = outcomes[one.pictures].text or f"failed: {outcomes[one.pictures].error}"
        right = text == one.truth
        mark = "" if right else f'<br><span class="wrong">truth: {html.escape(one.truth)}</span>'
        pictures = "".join(
            f'<img alt="{html.escape(text)}" src="data:image/png;base64,'
            f'{base64.b64encode(path.read_bytes()).decode()}">'
            for path in one.pictures
        )
        cards.append(
            f"<li><div>{pictures}</div>"
            f'<span class="asked">{html.escape(one.asked)}</span><br>{html.escape(text)}{mark}</li>'
        )
    return HTML.format(summary=html.escape(summary), cards="\n".join(cards))


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
            outcomes = answer(client, shown)
            seconds = time.monotonic() - began
        answered = sum(outcomes[one.pictures].text is not None for one in shown)
        right = sum(outcomes[one.pictures].text == one.truth for one in shown)
        for one in shown:
            mark = "✓" if outcomes[one.pictures].text == one.truth else "✗"
            result = outcomes[one.pictures]
            print(f"{mark} {one.asked}: {result.text or result.error}")
            if mark == "✗":
                print(f"  truth: {one.truth}")
        summary = (
            f"demo: {answered}/{len(shown)} answered, {right}/{len(shown)} exactly right,"
            f" {len(shown) / seconds:.1f} images/s"
        )
        sheet = arguments.out / "index.html"
        sheet.write_text(contact_sheet(shown, outcomes, summary), encoding="utf-8")
    print(f"pictures and answers: {sheet}\n{summary}")
    return 0 if answered == len(shown) and right >= MIN_RIGHT else 1


if __name__ == "__main__":
    sys.exit(main())
