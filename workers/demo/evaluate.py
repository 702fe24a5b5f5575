"""Evaluate the demonstration checkpoint: `make eval-demo`, in a fresh process, on new scenes.

Everything goes through the checkpoint's own processor and greedy `generate`, by the family that
the service uses. An answer counts when it is exactly right. Scenes come from seeds that training
never used; the control asks the same with the wrong picture.
"""

import argparse
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

from workers.demo import scenes, texts
from workers.demo.scenes import CANVASES, Scene
from workers.families import load
from workers.families.base import Family
from workers.images import decode
from workers.settings import EngineSettings

BATCH = 32
#: Far from the seeds of the training pool, which are below 100,000,000.
FIRST_SEED = 900_000_000

Question = tuple[Scene, int, str, str]


def answers(family: Family, questions: list[Question], batch: int = BATCH) -> list[str]:
    """What the model says to (scene, seed, question, right answer), in order."""
    said = []
    for start in range(0, len(questions), batch):
        prepared = [
            family.prepare({"kind": "vqa", "question": question}, [picture(scene, seed)])
            for scene, seed, question, _ in questions[start : start + batch]
        ]
        said += [answer.text for answer in family.generate(prepared)]
    return said


def picture(scene: Scene, seed: int) -> Any:
    """The scene as the service sees it: encoded, then decoded."""
    return decode(scenes.encode(scene, seed))


def ask(count: int, seed: int, kind: str, combinations: Any = "trained") -> list[Question]:
    """`count` questions of one kind ("caption", "detailed_caption" or a VQA type)."""
    rng = random.Random(seed)
    questions: list[Question] = []
    askers = {"caption": texts.ask_caption, "detailed_caption": texts.ask_detailed_caption}
    asker = askers.get(kind) or texts.QUESTIONS[kind][0]
    while len(questions) < count:
        index = len(questions)
        scene = scenes.sample(
            rng,
            shapes=1 + index % 3,
            canvas=CANVASES[index // 3 % 3],
            combinations=combinations,
        )
        asked = asker(scene, rng)
        if asked is None:  # not every scene allows every question
            scene = scenes.sample(rng, canvas=CANVASES[index % 3], combinations=combinations)
            asked = asker(scene, rng)
        if asked:
            questions.append((scene, FIRST_SEED + seed * 10_000 + index, *asked))
    return questions


def exact(family: Family, questions: list[Question]) -> float:
    """Share of answers that are exactly right."""
    said = answers(family, questions)
    return sum(a == q[3] for a, q in zip(said, questions, strict=True)) / len(questions)


def evaluate(family: Family, count: int) -> dict[str, Any]:
    """All figures of the model card, with `count` captions and `count / 5` of each VQA type."""
    captions = ask(count, 1, "caption")
    said = answers(family, captions)
    right = [a == q[3] for a, q in zip(said, captions, strict=True)]
    by_shapes = {
        n: sum(r for r, q in zip(right, captions, strict=True) if len(q[0].shapes) == n)
        / sum(len(q[0].shapes) == n for q in captions)
        for n in (1, 2, 3)
    }
    types = {
        name: exact(family, ask(max(count // 5, 20), 100 + number, name))
        for number, name in enumerate(texts.QUESTIONS)
    }
    wrong = [(captions[index - 1][0], *captions[index][1:]) for index in range(min(count, 200))]
    mixed = [
        question
        for group in zip(
            ask(32, 7, "caption", "all"), ask(32, 8, "color", "all"), ask(32, 9, "where", "all"),
            strict=True,
        )
        for question in group
    ]  # fmt: skip
    alone = answers(family, mixed, batch=1)
    return {
        "captions": sum(right) / count,
        "captions_by_shapes": by_shapes,
        "captions_of_held_out_pairs": exact(family, ask(count // 2, 2, "caption", "held_out")),
        "detailed_captions": exact(family, ask(count // 2, 3, "detailed_caption")),
        "vqa": types,
        "vqa_mean": sum(types.values()) / len(types),
        "control_with_the_wrong_picture": exact(family, wrong),
        "batched_equals_single": {
            size: sum(a == b for a, b in zip(alone, answers(family, mixed, size), strict=True))
            / len(mixed)
            for size in (8, 32)
        },
        "most_common_mistakes": Counter(
            f"{q[3]} → {a}" for a, q in zip(said, captions, strict=True) if a != q[3]
        ).most_common(5),
        "count": count,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    arguments = parser.parse_args()
    figures = evaluate(load(EngineSettings(model="demo")), arguments.count)
    print(json.dumps(figures, indent=2, ensure_ascii=False))
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
