"""What can be said and asked about a scene, with the one right answer.

Every question type is a function `(scene, rng) -> (question, answer) | None`; None means that
the scene does not allow the question (asking for the colour of "the star" needs one star).
"""

import random
from collections.abc import Callable, Mapping
from typing import TypeVar

from workers.demo.scenes import COLORS, SHAPES, TRAINED, Scene, Shape, relation

QuestionAnswer = tuple[str, str]

NUMBERS = ("none", "one", "two", "three")
CAPTION_PROMPTS = (
    "Describe the image.",
    "Caption this image.",
    "What is in this image?",
    "Write a short caption.",
    "What do you see?",
    "Describe this picture.",
    "Write a caption for this image.",
)
DETAILED_PROMPTS = (
    "Describe the image in detail.",
    "Write a detailed caption.",
    "Give a detailed description of the image.",
)
#: The service's own wording for `classify`, word for word.
CLASSIFY_PROMPT = (
    "Classify the image into a single category from the following list: {}."
    " Answer with the category alone."
)
TAG_PROMPTS = ("List the tags of this image.", "Tags:")
OPPOSITE = {
    "above": "below",
    "below": "above",
    "to the left of": "to the right of",
    "to the right of": "to the left of",
}


def zone(scene: Scene, shape: Shape) -> str:
    """The third of the canvas in which `shape` has its centre, as a phrase."""
    row = ("top", "", "bottom")[min(2, int(3 * shape.y / scene.height))]
    column = ("left", "", "right")[min(2, int(3 * shape.x / scene.width))]
    if row and column:
        return f"at the {row} {column}"
    if row:
        return f"at the {row}"
    return f"on the {column}" if column else "in the center"


def caption(scene: Scene) -> str:
    """The one right caption, for example "a small red star above a large blue circle"."""
    first, *rest = scene.shapes
    if not rest:
        return f"{first.noun_phrase} {zone(scene, first)}"
    if len(rest) == 1:
        return f"{first.noun_phrase} {relation(first, rest[0])} {rest[0].noun_phrase}"
    second, third = (shape.noun_phrase for shape in rest)
    return f"{first.noun_phrase}, {second} and {third} from left to right"


def detailed_caption(scene: Scene) -> str:
    """The caption with the number of shapes and the background before it."""
    count = len(scene.shapes)
    shapes = "one shape" if count == 1 else f"{NUMBERS[count]} shapes"
    pattern = "" if scene.pattern == "plain" else f"{scene.pattern} "
    return (
        f"This image shows {shapes} on a {pattern}{scene.background} background: {caption(scene)}."
    )


def article(word: str) -> str:
    return "an" if word == "orange" else "a"


def ask_caption(scene: Scene, rng: random.Random) -> QuestionAnswer:
    return rng.choice(CAPTION_PROMPTS), caption(scene)


def ask_detailed_caption(scene: Scene, rng: random.Random) -> QuestionAnswer:
    return rng.choice(DETAILED_PROMPTS), detailed_caption(scene)


def ask_tags(scene: Scene, rng: random.Random) -> QuestionAnswer:
    colors = sorted({shape.color for shape in scene.shapes})
    kinds = sorted({shape.kind for shape in scene.shapes})
    return rng.choice(TAG_PROMPTS), ", ".join(colors + kinds)


def unique(scene: Scene, field: str) -> list[Shape]:
    """Shapes that share the value of `field` with no other."""
    values = [getattr(shape, field) for shape in scene.shapes]
    return [s for s, value in zip(scene.shapes, values, strict=True) if values.count(value) == 1]


def ask_color(scene: Scene, rng: random.Random) -> QuestionAnswer | None:
    if not (candidates := unique(scene, "kind")):
        return None
    shape = rng.choice(candidates)
    return f"{rng.choice(('What', 'Which'))} color is the {shape.kind}?", shape.color


def ask_shape(scene: Scene, rng: random.Random) -> QuestionAnswer | None:
    if not (candidates := unique(scene, "color")):
        return None
    shape = rng.choice(candidates)
    return f"What shape is the {shape.color} object?", shape.kind


def ask_count(scene: Scene, rng: random.Random) -> QuestionAnswer:
    question = rng.choice(("How many shapes are there?", "How many objects are in the image?"))
    return question, NUMBERS[len(scene.shapes)]


def ask_count_of(scene: Scene, rng: random.Random) -> QuestionAnswer:
    by_color = rng.random() < 0.5
    present = [s.color if by_color else s.kind for s in scene.shapes]
    candidates = list(COLORS) if by_color else list(SHAPES)
    value = rng.choice(present if rng.random() < 0.7 else candidates)
    plural = f"{value}es" if value == "cross" else f"{value}s"
    asked = f"{value} shapes" if by_color else plural
    return f"How many {asked} are there?", NUMBERS[present.count(value)]


def ask_exists(scene: Scene, rng: random.Random) -> QuestionAnswer:
    """Half the answers are yes; most of the others share a colour or a shape with something."""
    present = [(s.color, s.kind) for s in scene.shapes]
    color, kind = rng.choice(present)
    if rng.random() < 0.5:
        absent = [c for c in TRAINED if c not in present]
        near = [c for c in absent if any(c[0] == p[0] or c[1] == p[1] for p in present)]
        color, kind = rng.choice(near if rng.random() < 0.7 else absent)
    answer = "yes" if (color, kind) in present else "no"
    return f"Is there {article(color)} {color} {kind} in the image?", answer


def ask_size(scene: Scene, rng: random.Random) -> QuestionAnswer | None:
    if not (candidates := unique(scene, "kind")):
        return None
    shape = rng.choice(candidates)
    return f"Is the {shape.kind} small or large?", shape.size


def _two_kinds(scene: Scene, rng: random.Random) -> tuple[Shape, Shape] | None:
    if len(scene.shapes) != 2 or scene.shapes[0].kind == scene.shapes[1].kind:
        return None
    first, second = rng.sample(scene.shapes, 2)
    return first, second


def ask_relation(scene: Scene, rng: random.Random) -> QuestionAnswer | None:
    if not (pair := _two_kinds(scene, rng)):
        return None
    return _asked_relation(*pair, is_true=rng.random() < 0.5)


def ask_every_relation(scene: Scene, rng: random.Random) -> list[QuestionAnswer]:
    """The four questions that `ask_relation` draws from, or none."""
    if not (pair := _two_kinds(scene, rng)):
        return []
    return [
        _asked_relation(*shapes, is_true=is_true)
        for shapes in (pair, pair[::-1])
        for is_true in (True, False)
    ]


def _asked_relation(first: Shape, second: Shape, *, is_true: bool) -> QuestionAnswer:
    truth = relation(first, second)
    asked = truth if is_true else OPPOSITE[truth]
    return f"Is the {first.kind} {asked} the {second.kind}?", "yes" if is_true else "no"


def ask_what_is(scene: Scene, rng: random.Random) -> QuestionAnswer | None:
    if not (pair := _two_kinds(scene, rng)):
        return None
    return f"What is {relation(*pair)} the {pair[1].kind}?", pair[0].noun_phrase


def ask_where(scene: Scene, rng: random.Random) -> QuestionAnswer | None:
    if len(scene.shapes) == 1:
        shape = scene.shapes[0]
        return f"Where is the {shape.kind}?", zone(scene, shape)
    if not (pair := _two_kinds(scene, rng)):
        return None
    return f"Where is the {pair[0].kind}?", f"{relation(*pair)} the {pair[1].kind}"


def ask_background(scene: Scene, rng: random.Random) -> QuestionAnswer:
    if rng.random() < 0.5:
        return "What color is the background?", scene.background
    return "What is the background like?", scene.pattern


def ask_category(scene: Scene, rng: random.Random) -> QuestionAnswer:
    """Choose from a list of which exactly one entry is in the picture."""
    if rng.random() < 0.7:
        present, names = {s.kind for s in scene.shapes}, list(SHAPES)
    else:
        present, names = {s.color for s in scene.shapes}, list(COLORS)
    truth = rng.choice(sorted(present))
    absent = [name for name in names if name not in present]
    listed = [*rng.sample(absent, min(len(absent), rng.randint(1, 7))), truth]
    rng.shuffle(listed)
    if rng.random() < 0.5:
        return CLASSIFY_PROMPT.format(", ".join(listed)), truth
    return f"Choose a category: {', '.join(listed)}.", f"Category: {truth}"


#: Question types by name, with how often training asks each.
QUESTIONS: dict[str, tuple[Callable[[Scene, random.Random], QuestionAnswer | None], float]] = {
    "color": (ask_color, 2.5),
    "shape": (ask_shape, 2.0),
    "count": (ask_count, 1.5),
    "count_of": (ask_count_of, 2.5),
    "exists": (ask_exists, 2.5),
    "size": (ask_size, 2.0),
    "relation": (ask_relation, 2.5),
    "what_is": (ask_what_is, 2.0),
    "where": (ask_where, 3.0),
    "background": (ask_background, 2.0),
    "category": (ask_category, 1.5),
    "tags": (ask_tags, 1.0),
}


def ask_anything(scene: Scene, rng: random.Random) -> QuestionAnswer:
    """One question of a type drawn by its training weight."""
    return drawn(QUESTIONS, rng, scene)


Asked = TypeVar("Asked")


def drawn(
    table: Mapping[str, tuple[Callable[..., Asked | None], float]], rng: random.Random, *of: Scene
) -> Asked:
    """Return a question of the first function in `table` that has one, chosen by weight."""
    askers, weights = zip(*table.values(), strict=True)
    while True:
        asked: Asked | None = rng.choices(askers, weights)[0](*of, rng)
        if asked:
            return asked
