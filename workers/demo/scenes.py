"""Drawn scenes: one to three shapes on a background, and the picture of them.

Longer than 300 lines because the checkpoint was trained on exactly these seeded draws.

Nothing comes from outside: a scene is sampled from a seeded generator, drawn with Pillow, and
knows its own truth. The difficulty (8 colours, 6 shapes, 2 sizes, 5 backgrounds, 4 patterns,
3 canvases) is part of what the model's figures mean, so it is not to be made easier.
"""

import dataclasses
import io
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw

RGB = tuple[int, int, int]
Combination = tuple[str, str]

COLORS: dict[str, RGB] = {
    "red": (214, 32, 38),
    "orange": (245, 140, 20),
    "yellow": (240, 215, 20),
    "green": (30, 150, 60),
    "blue": (30, 80, 215),
    "purple": (130, 45, 170),
    "brown": (115, 65, 30),
    "black": (25, 25, 28),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
BACKGROUNDS: dict[str, RGB] = {
    "white": (250, 250, 250),
    "gray": (198, 200, 203),
    "pink": (252, 208, 222),
    "light blue": (200, 226, 250),
    "light green": (205, 240, 205),
}
PATTERNS = ("plain", "striped", "noisy", "dotted")
#: Radius as a share of the canvas's shorter side; the gap keeps "small" and "large" decidable.
SIZES: dict[str, tuple[float, float]] = {"small": (0.105, 0.135), "large": (0.19, 0.235)}
#: (width, height) in pixels: one square, one landscape, one portrait.
CANVASES = ((96, 96), (96, 72), (72, 96))

#: Colour-shape pairs that training never shows, to measure whether the two were learnt apart.
HELD_OUT: frozenset[Combination] = frozenset(
    {
        ("red", "star"),
        ("blue", "triangle"),
        ("green", "cross"),
        ("yellow", "circle"),
        ("purple", "square"),
    }
)
ALL_COMBINATIONS: tuple[Combination, ...] = tuple(itertools.product(COLORS, SHAPES))
TRAINED: tuple[Combination, ...] = tuple(c for c in ALL_COMBINATIONS if c not in HELD_OUT)

#: Pictures are drawn at twice their size and reduced, so that edges are smooth.
SUPERSAMPLING = 2


@dataclass(frozen=True, slots=True)
class Shape:
    """One object. `x`, `y` (its centre) and `radius` are pixels of the canvas."""

    color: str
    kind: str
    size: str
    x: float
    y: float
    radius: float

    @property
    def name(self) -> str:
        """For example "large red circle"."""
        return f"{self.size} {self.color} {self.kind}"

    @property
    def noun_phrase(self) -> str:
        """For example "a large red circle"."""
        return f"a {self.name}"


@dataclass(frozen=True, slots=True)
class Scene:
    """The truth of one picture; `shapes` are in the order in which captions name them."""

    width: int
    height: int
    shapes: tuple[Shape, ...]
    background: str
    pattern: str

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for scenes that nobody could tell apart: places to the whole pixel."""
        shapes = tuple((s.name, round(s.x), round(s.y), round(s.radius)) for s in self.shapes)
        return self.width, self.height, shapes, self.background, self.pattern


def relation(a: Shape, b: Shape) -> str:
    """Return where `a` is as seen from `b`, by the larger of the two distances."""
    dx, dy = a.x - b.x, a.y - b.y
    if abs(dx) > abs(dy):
        return "to the left of" if dx < 0 else "to the right of"
    return "above" if dy < 0 else "below"


def sample(
    rng: random.Random,
    *,
    shapes: int | None = None,
    canvas: tuple[int, int] = CANVASES[0],
    combinations: Literal["trained", "held_out", "all"] = "trained",
) -> Scene:
    """Draw one scene's truth from `rng`.

    Args:
        rng: The only source of chance.
        shapes: How many, 1 to 3; any when None.
        canvas: (width, height) in pixels.
        combinations: Which colour-shape pairs may appear; "held_out" puts at least one in.
    """
    width, height = canvas
    count = shapes or rng.choice((1, 2, 3))
    while True:
        drawn = [_sample_shape(rng, canvas, combinations) for _ in range(count)]
        if combinations == "held_out":
            color, kind = rng.choice(sorted(HELD_OUT))
            index = rng.randrange(count)
            drawn[index] = changed(drawn[index], color=color, kind=kind)
        placed = _place_one(rng, canvas, drawn) if count == 1 else _place(rng, canvas, drawn)
        if placed:
            background = rng.choice(list(BACKGROUNDS))
            return Scene(width, height, _in_order(placed), background, rng.choice(PATTERNS))


def changed(shape: Shape, **fields: Any) -> Shape:
    """`shape` with other values of some fields."""
    return dataclasses.replace(shape, **fields)


def with_shapes(scene: Scene, shapes: tuple[Shape, ...], background: str | None = None) -> Scene:
    """`scene` with other shapes, and with another background if one is given."""
    return dataclasses.replace(
        scene, shapes=_in_order(shapes), background=background or scene.background
    )


def _sample_shape(rng: random.Random, canvas: tuple[int, int], combinations: str) -> Shape:
    color, kind = rng.choice(ALL_COMBINATIONS if combinations == "all" else TRAINED)
    size = rng.choice(list(SIZES))
    return Shape(color, kind, size, 0.0, 0.0, rng.uniform(*SIZES[size]) * min(canvas))


def _place_one(
    rng: random.Random, canvas: tuple[int, int], shapes: list[Shape]
) -> tuple[Shape, ...]:
    """Put a lone shape well inside one of the nine zones that captions name."""
    x, y = (side * (rng.choice((0.25, 0.5, 0.75)) + rng.uniform(-0.05, 0.05)) for side in canvas)
    return (changed(shapes[0], x=x, y=y),)


def _place(
    rng: random.Random, canvas: tuple[int, int], shapes: list[Shape]
) -> tuple[Shape, ...] | None:
    width, height = canvas
    for _ in range(40):
        placed = tuple(
            changed(
                s,
                x=rng.uniform(s.radius + 1, width - s.radius - 1),
                y=rng.uniform(s.radius + 1, height - s.radius - 1),
            )
            for s in shapes
        )
        if all(_apart(a, b, len(placed), width) for a, b in itertools.combinations(placed, 2)):
            return placed
    return None


def _apart(a: Shape, b: Shape, count: int, width: int) -> bool:
    """Do `a` and `b` neither touch nor stand so that their relation could be argued about?"""
    dx, dy = abs(a.x - b.x), abs(a.y - b.y)
    if math.hypot(dx, dy) < (a.radius + b.radius) * 1.08 + 1:
        return False
    if count == 2:
        return max(dx, dy) >= 1.5 * min(dx, dy)
    return dx >= 0.11 * width


def _in_order(shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
    if len(shapes) == 2:
        a, b = shapes
        return (a, b) if relation(a, b) in ("to the left of", "above") else (b, a)
    return tuple(sorted(shapes, key=lambda s: s.x))


def draw(scene: Scene, seed: int, *, scale: int = 1) -> Image.Image:
    """Draw `scene`; `seed` varies shades, tilt and pattern without changing the truth.

    Returns:
        An RGB image of (scene.width * scale, scene.height * scale) pixels.
    """
    rng = random.Random(seed)
    unit = scale * SUPERSAMPLING
    size = (scene.width * unit, scene.height * unit)
    ground = _shade(rng, BACKGROUNDS[scene.background], 5)
    image = Image.new("RGB", size, ground)
    image = _PATTERN_PAINTERS[scene.pattern](rng, image, ground, unit)
    pen = ImageDraw.Draw(image)
    for shape in scene.shapes:
        _draw_shape(rng, pen, shape, unit)
    return image.reduce(SUPERSAMPLING)


def encode(scene: Scene, seed: int, *, scale: int = 1) -> bytes:
    """The picture of `scene` as PNG bytes."""
    buffer = io.BytesIO()
    draw(scene, seed, scale=scale).save(buffer, "PNG")
    return buffer.getvalue()


def _shade(rng: random.Random, color: RGB, spread: int) -> RGB:
    red, green, blue = (min(255, max(0, v + rng.randint(-spread, spread))) for v in color)
    return red, green, blue


def _darker(color: RGB) -> RGB:
    red, green, blue = (max(0, v - 22) for v in color)
    return red, green, blue


def _plain(rng: random.Random, image: Image.Image, ground: RGB, unit: int) -> Image.Image:
    return image


def _striped(rng: random.Random, image: Image.Image, ground: RGB, unit: int) -> Image.Image:
    pen, (width, height) = ImageDraw.Draw(image), image.size
    step = rng.uniform(9, 13) * unit
    at, vertical = rng.uniform(0, step) - step, rng.random() < 0.5
    while at < max(width, height):
        box = (at, 0, at + step / 2, height) if vertical else (0, at, width, at + step / 2)
        pen.rectangle(box, fill=_darker(ground))
        at += step
    return image


def _dotted(rng: random.Random, image: Image.Image, ground: RGB, unit: int) -> Image.Image:
    pen, (width, height) = ImageDraw.Draw(image), image.size
    step, radius = rng.uniform(10, 13) * unit, 2.0 * unit
    first_x, y = rng.uniform(0, step), rng.uniform(0, step)
    while y < height:
        x = first_x
        while x < width:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_darker(ground))
            x += step
        y += step
    return image


def _noisy(rng: random.Random, image: Image.Image, ground: RGB, unit: int) -> Image.Image:
    width, height = image.size
    grain = np.random.default_rng(rng.randrange(2**31)).integers(
        -26, 27, (height // unit, width // unit, 1)
    )
    pixels = np.asarray(image).astype(np.int16) + grain.repeat(unit, 0).repeat(unit, 1)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


_PATTERN_PAINTERS: dict[str, Callable[[random.Random, Image.Image, RGB, int], Image.Image]] = {
    "plain": _plain,
    "striped": _striped,
    "noisy": _noisy,
    "dotted": _dotted,
}


def _draw_shape(rng: random.Random, pen: ImageDraw.ImageDraw, shape: Shape, unit: int) -> None:
    fill = _shade(rng, COLORS[shape.color], 10)
    x, y, radius = shape.x * unit, shape.y * unit, shape.radius * unit
    if shape.kind == "circle":
        r = radius * 0.97
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
        return
    tilt = math.radians(rng.uniform(-7, 7))
    cos, sin = math.cos(tilt) * radius, math.sin(tilt) * radius
    pen.polygon(
        [(x + cos * a - sin * b, y + sin * a + cos * b) for a, b in _OUTLINES[shape.kind]],
        fill=fill,
    )


def _star() -> list[tuple[float, float]]:
    points = []
    for corner in range(10):
        reach = 1.05 if corner % 2 == 0 else 0.45
        angle = -math.pi / 2 + corner * math.pi / 5
        points.append((reach * math.cos(angle), reach * math.sin(angle)))
    return points


#: Corners of each shape for radius 1, x to the right and y down.
_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)],
    "diamond": [(0, -1), (0.78, 0), (0, 1), (-0.78, 0)],
    "triangle": [(0, -1), (0.95, 0.72), (-0.95, 0.72)],
    "star": _star(),
    "cross": [
        (-0.34, -1), (0.34, -1), (0.34, -0.34), (1, -0.34), (1, 0.34), (0.34, 0.34),
        (0.34, 1), (-0.34, 1), (-0.34, 0.34), (-1, 0.34), (-1, -0.34), (-0.34, -0.34),
    ],
}  # fmt: skip
