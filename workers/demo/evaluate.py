"""Evaluate the demonstration checkpoint: `make eval-demo`, in a fresh process, on new scenes.

Longer than 300 lines because each entry of a long table of measurements needs the few lines that
make its cases.

Everything goes through the checkpoint's own processor and greedy `generate`, as requests to the
family that the service uses. An answer counts when it is exactly right. No scene is one of those
that training showed, and sizes of pictures take turns. The control asks the same of another
picture, beside the share that always saying the most common answer would get.
"""

import argparse
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Literal

from workers.demo import followups, formats, pairs, pool, scenes, texts
from workers.demo.scenes import BACKGROUNDS, CANVASES, COLORS, SHAPES, Scene
from workers.demo.texts import QuestionAnswer
from workers.demo.train import POOL_SCENES
from workers.families import load
from workers.families.base import Answer, Family
from workers.images import decode
from workers.settings import EngineSettings

EVALUATED_AT_ONCE = 32
#: Of the checkpoint's training: its scenes are never asked about.
TRAINED_SEED = 0
#: Pictures are drawn from seeds far from those of training.
FIRST_SEED = 900_000_000


@dataclass(frozen=True, slots=True)
class Case:
    """A request, the scenes of its pictures (those of its examples last), and the right answer."""

    request: dict[str, Any]
    scenes: tuple[Scene, ...]
    answer: str
    seed: int = 0

    def pictures(self) -> list[Any]:
        """Pictures as the service gets them: encoded, then decoded."""
        return [
            decode(scenes.encode(scene, self.seed + number))
            for number, scene in enumerate(self.scenes)
        ]


@cache
def trained() -> frozenset[tuple[object, ...]]:
    """Keys of all scenes that training showed."""
    return frozenset(scene.key for scene in pool.truths(POOL_SCENES, TRAINED_SEED))


@dataclass
class SceneSampler:
    """Draws scenes that training never showed, their shapes and canvases in turn."""

    seed: int
    combinations: Literal["trained", "held_out", "all"] = "trained"
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self._numbers = count()

    def scene(self, shapes: int | None = None) -> Scene:
        """The next one."""
        number = next(self._numbers)
        while True:
            scene = scenes.sample(
                self.rng,
                shapes=shapes or 1 + number % 3,
                canvas=CANVASES[number // 3 % 3],
                combinations=self.combinations,
            )
            if scene.key not in trained():
                return scene

    def cases(self, number: int, make: Callable[["SceneSampler"], Case | None]) -> list[Case]:
        """So many of a kind; not every scene allows every question."""
        made: list[Case] = []
        while len(made) < number:
            if case := make(self):
                seed = FIRST_SEED + self.seed * 1_000_000 + len(made) * 10
                made.append(replace(case, seed=seed))
        return made


# ---- kinds of cases -------------------------------------------------------------------

Make = Callable[[SceneSampler], Case | None]


def asked(ask: Callable[[Scene, random.Random], QuestionAnswer | None]) -> Make:
    """Make a question about one picture."""

    def make(sampler: SceneSampler) -> Case | None:
        scene = sampler.scene()
        found = ask(scene, sampler.rng)
        return found and Case({"kind": "vqa", "question": found[0]}, (scene,), found[1])

    return make


def asked_of_two(ask: Callable[[Scene, Scene, random.Random], QuestionAnswer]) -> Make:
    """A question about two pictures that have nothing to do with each other."""

    def make(sampler: SceneSampler) -> Case:
        shown = sampler.scene(), sampler.scene(sampler.rng.choice((1, 2, 3)))
        question, answer = ask(*shown, sampler.rng)
        return Case({"kind": "vqa", "question": question}, shown, answer)

    return make


def changed(sampler: SceneSampler) -> Case | None:
    """Make a question about what changed between a picture and an altered one."""
    scene = sampler.scene()
    other = pairs.alter(scene, sampler.rng)
    if other.key in trained():
        return None
    shown = (scene, other) if sampler.rng.random() < 0.5 else (other, scene)
    question, answer = pairs.ask_changed(*shown, sampler.rng)
    return Case({"kind": "vqa", "question": question}, shown, answer)


def solved(forms: Sequence[formats.Format]) -> Make:
    """Make the same question about two pictures, the first with an answer in one of `forms`."""

    def make(sampler: SceneSampler) -> Case:
        # One shape alone does not show what stands between two.
        example, scene = sampler.scene(sampler.rng.choice((2, 3))), sampler.scene()
        form = sampler.rng.choice(forms)
        request = {
            "kind": "vqa",
            "question": sampler.rng.choice(texts.CAPTION_PROMPTS),
            "examples": [{"image": "", "text": form.write(example)}],
        }
        return Case(request, (scene, example), form.write(scene))

    return make


def followed_up(
    ask: Callable[[Scene, random.Random], list[QuestionAnswer] | None],
) -> Make:
    """A conversation whose second question refers to the first."""

    def make(sampler: SceneSampler) -> Case | None:
        scene = sampler.scene()
        if not (turns := ask(scene, sampler.rng)):
            return None
        (question, answered), (then, answer) = turns
        messages = [
            {"role": "user", "content": [{"type": "image", "index": 0}, _text(question)]},
            {"role": "assistant", "content": [_text(answered)]},
            {"role": "user", "content": [_text(then)]},
        ]
        return Case({"kind": "chat", "messages": messages}, (scene,), answer)

    return make


def _text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def classified(method: str) -> Make:
    """One of some labels, in the service's own wording; of shapes, colours or backgrounds."""

    def make(sampler: SceneSampler) -> Case:
        scene = sampler.scene(1)
        shape = scene.shapes[0]
        names, answer = sampler.rng.choice(((SHAPES, shape.kind), (tuple(COLORS), shape.color)))
        labels = sampler.rng.sample(names, sampler.rng.randint(2, len(names)))
        if answer not in labels:
            labels[sampler.rng.randrange(len(labels))] = answer
        return Case({"kind": "classify", "labels": labels, "method": method}, (scene,), answer)

    return make


def ranked_backgrounds(sampler: SceneSampler) -> Case:
    """The background, all its names ranked, in a wording of one's own."""
    scene = sampler.scene()
    request = {
        "kind": "classify",
        "method": "rank",
        "labels": list(BACKGROUNDS),
        "template": "{images}What color is the background?",
    }
    return Case(request, (scene,), scene.background)


#: Name of the figure ─▶ what is asked.
FIGURES: dict[str, Make] = {
    "caption": asked(texts.ask_caption),
    "detailed_caption": asked(texts.ask_detailed_caption),
    "classify": classified("generate"),
    "classify_ranked": classified("rank"),
    "background_ranked": ranked_backgrounds,
    **{f"vqa_{name}": asked(ask) for name, (ask, _) in texts.QUESTIONS.items()},
    **{f"two_{name}": asked_of_two(ask) for name, (ask, _) in pairs.PAIR_QUESTIONS.items()},
    "two_changed": changed,
    "example_format": solved(formats.TRAINED_FORMATS),
    "example_new_format": solved(formats.HELD_OUT_FORMATS),
    **{f"turn_{name}": followed_up(ask) for name, (ask, _) in followups.FOLLOW_UPS.items()},
}


# ---- answering ------------------------------------------------------------------------


def answers(family: Family, cases: Sequence[Case], batch: int = EVALUATED_AT_ONCE) -> list[str]:
    """Answer requests of one kind with the model, in order."""
    answered = []
    for start in range(0, len(cases), batch):
        prepared = [
            family.prepare(case.request, case.pictures()) for case in cases[start : start + batch]
        ]
        answered += [_said(answer) for answer in family.generate(prepared)]
    return answered


def _said(answer: Answer) -> str:
    return str(answer.kind_fields.get("label") or answer.text)


def share(answered: Sequence[str], cases: Sequence[Case]) -> float:
    """Share of answers that are exactly right."""
    return sum(a == case.answer for a, case in zip(answered, cases, strict=True)) / len(cases)


def with_wrong_pictures(cases: Sequence[Case]) -> Iterator[Case]:
    """Give each request the pictures of the one before; examples keep theirs."""
    for number, case in enumerate(cases):
        own = len(case.request.get("examples", ()))
        kept = case.scenes[len(case.scenes) - own :]
        other = cases[number - 1].scenes
        yield replace(case, scenes=(*other[: len(case.scenes) - own], *kept))


def evaluate(family: Family, number: int, names: Sequence[str], *, alone: bool) -> dict[str, Any]:
    """Figures, each of `number` cases; with `alone`, all are asked one at a time as well."""
    figures: dict[str, Any] = {}
    for place, name in enumerate(FIGURES):
        if name not in names:
            continue
        cases = SceneSampler(100 + place).cases(number, FIGURES[name])
        answered = answers(family, cases)
        wrong = list(with_wrong_pictures(cases))[: number // 5]
        common = Counter(case.answer for case in cases).most_common(1)[0][1] / number
        figures[name] = {
            "right": share(answered, cases),
            "wrong_picture": share(answers(family, wrong), wrong),
            "most_common_answer": common,
            "mistakes": Counter(
                f"{case.answer} → {a}"
                for a, case in zip(answered, cases, strict=True)
                if a != case.answer
            ).most_common(3),
        }
        if alone:
            single = answers(family, cases, batch=1)
            figures[name]["alone_the_same"] = sum(map(str.__eq__, answered, single)) / number
        if name == "caption":
            figures[name]["by_shapes"] = _by_shapes(answered, cases)
        if name == "vqa_where":
            figures[name] |= _axes(answered, cases)
        print(name, json.dumps(figures[name], ensure_ascii=False), flush=True)
    held_out = SceneSampler(99, "held_out").cases(number, FIGURES["caption"])
    figures["caption_held_out"] = {"right": share(answers(family, held_out), held_out)}
    print("caption_held_out", figures["caption_held_out"], flush=True)
    return figures


def _by_shapes(answered: Sequence[str], cases: Sequence[Case]) -> dict[int, float]:
    shares = {}
    for shapes in (1, 2, 3):
        some = [
            (a, case)
            for a, case in zip(answered, cases, strict=True)
            if len(case.scenes[0].shapes) == shapes
        ]
        shares[shapes] = share([a for a, _ in some], [case for _, case in some])
    return shares


def _axes(answered: Sequence[str], cases: Sequence[Case]) -> dict[str, float]:
    """Share of lone shapes whose row and column are right."""
    lone = [
        (a, case.answer)
        for a, case in zip(answered, cases, strict=True)
        if len(case.scenes[0].shapes) == 1
    ]

    def agree(words: tuple[str, str]) -> float:
        def told(text: str) -> list[str]:
            return [word for word in words if word in text.split()]

        return sum(told(a) == told(truth) for a, truth in lone) / len(lone)

    return {"rows": agree(("top", "bottom")), "columns": agree(("left", "right"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=1_000, help="cases for each figure")
    parser.add_argument("--figures", nargs="*", default=list(FIGURES), choices=list(FIGURES))
    parser.add_argument("--checkpoint", type=Path, help="a folder, else the built-in one")
    parser.add_argument("--quantize", default="none", help="as IDEFIQ_QUANTIZE")
    parser.add_argument("--alone", action="store_true", help="also one at a time, and compare")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    arguments = parser.parse_args()
    settings: dict[str, Any] = {"model": "demo", "quantize": arguments.quantize}
    if arguments.checkpoint:
        settings["model_path"] = str(arguments.checkpoint)
    family = load(EngineSettings(**settings))
    figures = evaluate(family, arguments.count, arguments.figures, alone=arguments.alone)
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
