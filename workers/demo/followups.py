"""Second turns that mean nothing without the first: "it", and "and the circle?".

Every function is `(scene, rng) -> [first turn, second turn] | None`, None as in texts.py.
"""

import random
from collections.abc import Callable

from workers.demo import texts
from workers.demo.scenes import Scene, Shape
from workers.demo.texts import QuestionAnswer, unique, zone

#: What may be asked of "it", by what it is about.
_OF_IT: dict[str, tuple[str, Callable[[Scene, Shape], str]]] = {
    "color": ("What color is it?", lambda scene, shape: shape.color),
    "kind": ("What shape is it?", lambda scene, shape: shape.kind),
    "size": ("Is it small or large?", lambda scene, shape: shape.size),
}
#: The same of a shape that has a name.
_OF_NAMED: dict[str, tuple[str, Callable[[Scene, Shape], str]]] = {
    "color": ("What color is the {}?", lambda scene, shape: shape.color),
    "size": ("Is the {} small or large?", lambda scene, shape: shape.size),
}


def ask_it(scene: Scene, rng: random.Random) -> list[QuestionAnswer] | None:
    """A question about one shape, then another that calls it "it"."""
    by_color = rng.random() < 0.5
    if not (candidates := unique(scene, "color" if by_color else "kind")):
        return None
    shape = rng.choice(candidates)
    if by_color:
        first, then = (f"What shape is the {shape.color} object?", shape.kind), ["size"]
    else:
        about = rng.choice(list(_OF_NAMED))
        question, answer = _OF_NAMED[about]
        first = (question.format(shape.kind), answer(scene, shape))
        then = ["size" if about == "color" else "color"]
    if len(scene.shapes) == 1:
        then.append("where")
    about = rng.choice(then)
    if about == "where":
        return [first, ("Where is it?", zone(scene, shape))]
    question, answer = _OF_IT[about]
    return [first, (question, answer(scene, shape))]


def ask_and(scene: Scene, rng: random.Random) -> list[QuestionAnswer] | None:
    """A question about one shape, then only the name of another."""
    if len(candidates := unique(scene, "kind")) < 2:
        return None
    shape, other = rng.sample(candidates, 2)
    question, answer = _OF_NAMED[rng.choice(list(_OF_NAMED))]
    return [
        (question.format(shape.kind), answer(scene, shape)),
        (f"And the {other.kind}?", answer(scene, other)),
    ]


def ask_after_caption(scene: Scene, rng: random.Random) -> list[QuestionAnswer] | None:
    """A caption, then a question, which may call the first shape of the caption "the first"."""
    first = texts.ask_caption(scene, rng)
    if len(scene.shapes) == 1 or rng.random() < 0.5:
        return [first, texts.ask_anything(scene, rng)]
    about = rng.choice(list(_OF_IT))
    question, answer = _OF_IT[about]
    place = rng.randrange(len(scene.shapes))
    asked = question.replace(" it", f" the {_ORDER[place]} one")
    return [first, (asked, answer(scene, scene.shapes[place]))]


_ORDER = ("first", "second", "third")

#: By name, with how often training asks each.
FOLLOW_UPS: dict[
    str, tuple[Callable[[Scene, random.Random], list[QuestionAnswer] | None], float]
] = {
    "it": (ask_it, 2.0),
    "and": (ask_and, 2.0),
    "after_caption": (ask_after_caption, 1.5),
}
