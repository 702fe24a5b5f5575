"""Two pictures: which of them shows something, and what changed from the one to the other.

Every question is a function `(first, second, rng) -> (question, answer)`.
"""

import random
from collections.abc import Callable
from typing import Literal

from workers.demo.scenes import (
    BACKGROUNDS,
    COLORS,
    HELD_OUT,
    SHAPES,
    TRAINED,
    Combination,
    Scene,
    Shape,
    changed,
    with_shapes,
)
from workers.demo.texts import QuestionAnswer, article

CHANGE_PROMPTS = ("What changed?", "What is different in the second image?")


def ask_which(first: Scene, second: Scene, rng: random.Random) -> QuestionAnswer:
    """Ask which image shows something: mostly one of them, sometimes both or neither."""
    here, there = ({(s.color, s.kind) for s in scene.shapes} for scene in (first, second))
    wanted = rng.choices(
        (here - there, there - here, here & there, set(TRAINED) - here - there), (4, 4, 1, 1)
    )[0]
    # Whether held-out pairs are there is never asked: training would only ever say no.
    candidates = sorted(wanted - HELD_OUT) or sorted(set(TRAINED) - here - there)
    color, kind = rng.choice(candidates)
    seen = ((color, kind) in here, (color, kind) in there)
    return f"Which image has {article(color)} {color} {kind}?", _WHICH[seen]


_WHICH = {
    (True, False): "the first",
    (False, True): "the second",
    (True, True): "both",
    (False, False): "neither",
}


def ask_more(first: Scene, second: Scene, rng: random.Random) -> QuestionAnswer:
    """Ask which image has more shapes."""
    difference = len(first.shapes) - len(second.shapes)
    answer = "the first" if difference > 0 else "the second" if difference else "the same"
    return "Which image has more shapes?", answer


def ask_changed(first: Scene, second: Scene, rng: random.Random) -> QuestionAnswer:
    """Ask what differs in the second of two images, one of which was made from the other."""
    return rng.choice(CHANGE_PROMPTS), what_changed(first, second)


def alter(
    scene: Scene, rng: random.Random, combinations: Literal["trained", "all"] = "trained"
) -> Scene:
    """Copy a scene with one change, or none: a colour, a shape, a background, a removed shape."""
    what = rng.choice(("color", "kind", "background", "gone", "nothing"))
    shape = rng.choice(scene.shapes)
    if what == "background":
        names = [name for name in BACKGROUNDS if name != scene.background]
        return with_shapes(scene, scene.shapes, background=rng.choice(names))
    if what == "gone" and len(scene.shapes) > 1:
        return with_shapes(scene, tuple(s for s in scene.shapes if s is not shape))
    if what in ("color", "kind"):
        allowed = TRAINED if combinations == "trained" else None
        other = _other(shape, what, rng, allowed)
        return with_shapes(scene, tuple(other if s is shape else s for s in scene.shapes))
    return scene


def _other(
    shape: Shape, field: str, rng: random.Random, allowed: tuple[Combination, ...] | None
) -> Shape:
    while True:
        value = rng.choice(list(COLORS) if field == "color" else SHAPES)
        other = changed(shape, **{field: value})
        if other != shape and (allowed is None or (other.color, other.kind) in allowed):
            return other


def what_changed(first: Scene, second: Scene) -> str:
    """The one right answer, for example "the small red circle became blue"."""
    if first.background != second.background:
        return f"the background became {second.background}"
    gone = [shape for shape in first.shapes if shape not in second.shapes]
    new = [shape for shape in second.shapes if shape not in first.shapes]
    if not gone and not new:
        return "nothing changed"
    if not new:
        return f"the {gone[0].name} is gone"
    if not gone:
        return f"{new[0].noun_phrase} appeared"
    [old], [other] = gone, new
    became = other.color if other.color != old.color else f"a {other.kind}"
    return f"the {old.name} became {became}"


#: Questions about any two pictures, by name, with how often training asks each.
PAIR_QUESTIONS: dict[str, tuple[Callable[[Scene, Scene, random.Random], QuestionAnswer], float]] = {
    "which": (ask_which, 3.0),
    "more": (ask_more, 1.0),
}
