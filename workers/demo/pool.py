"""The training pool: scenes rendered once and kept in memory, with what every patch shows.

A batch has one canvas, so that no patch is padding. The labels of the patches teach the vision
encoder before there is any text; averaged over captions alone, shapes take far longer to appear.
"""

import multiprocessing
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.demo import scenes
from workers.demo.build import PATCH
from workers.demo.pairs import alter

#: A patch at the rim of a shape, where neither answer is wrong.
IGNORED = 255
CHUNK = 1000
#: Every so many scenes of a chunk, one is followed by an altered copy of itself.
ALTERED_EVERY = 5
#: How often each of scenes.CANVASES is drawn.
CANVAS_SHARES = (0.5, 0.25, 0.25)
_COLORS, _BACKGROUNDS = list(scenes.COLORS), list(scenes.BACKGROUNDS)


@dataclass(frozen=True, slots=True)
class Pool:
    """Scenes of one canvas.

    Attributes:
        scenes: Truths, one per picture.
        images: uint8 (n, height, width, 3).
        things: uint8 (n, patches, 3): colour, shape and size, 0 where there is background,
            IGNORED at rims.
        centres: float32 (n, patches, 2): x and y in -1..1 of the shape that the patch
            belongs to, or of the patch itself.
        grounds: uint8 (n, 2): background colour and pattern.
        by_count: Indices of the scenes with 1, 2 and 3 shapes, altered ones left out.
        altered: Indices of scenes of which the next one is an altered copy, or an equal one.
    """

    scenes: list[scenes.Scene]
    images: NDArray[np.uint8]
    things: NDArray[np.uint8]
    centres: NDArray[np.float32]
    grounds: NDArray[np.uint8]
    by_count: dict[int, list[int]]
    altered: list[int]


def patch_labels(scene: scenes.Scene) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Label each patch of `scene` with its contents: see Pool.things and Pool.centres."""
    rows, columns = scene.height // PATCH, scene.width // PATCH
    y, x = np.mgrid[:rows, :columns] * PATCH + PATCH / 2
    size = np.array([scene.width, scene.height])
    things = np.zeros((rows, columns, 3), np.uint8)
    centres = (np.stack([x, y], -1) / size).astype(np.float32)
    for shape in scene.shapes:
        distance = np.hypot(x - shape.x, y - shape.y)
        inside = distance < shape.radius * 0.8
        things[(distance < shape.radius * 1.3) & ~inside] = IGNORED
        things[inside] = (
            _COLORS.index(shape.color) + 1,
            scenes.SHAPES.index(shape.kind) + 1,
            1 + (shape.size == "large"),
        )
        centres[inside] = np.array([shape.x, shape.y]) / size
    return things.reshape(-1, 3), centres.reshape(-1, 2) * 2 - 1


PoolChunk = list[tuple[scenes.Scene, NDArray[np.uint8]]]


def render(count: int, seed: int, processes: int = 2) -> list[Pool]:
    """Render about `count` training scenes: a Pool for each canvas, the same for a seed."""
    with multiprocessing.get_context("spawn").Pool(processes) as workers:
        return [_join(workers.map(_render_chunk, tasks)) for tasks in _tasks(count, seed)]


def truths(count: int, seed: int) -> Iterator[scenes.Scene]:
    """The scenes that `render` renders, undrawn."""
    return (scene for tasks in _tasks(count, seed) for task in tasks for scene in _sample(task))


def _tasks(count: int, seed: int) -> list[list[tuple[int, int]]]:
    """(canvas, seed) of each chunk, by canvas."""
    return [
        [
            (canvas, seed * 1_000_000 + canvas * 10_000 + chunk)
            for chunk in range(max(1, int(count * share) // CHUNK))
        ]
        for canvas, share in enumerate(CANVAS_SHARES)
    ]


def _sample(task: tuple[int, int]) -> list[scenes.Scene]:
    canvas, seed = task
    rng = random.Random(seed)
    sampled: list[scenes.Scene] = []
    while len(sampled) < CHUNK:
        sampled.append(scenes.sample(rng, canvas=scenes.CANVASES[canvas]))
        if len(sampled) % ALTERED_EVERY == 1:
            sampled.append(alter(sampled[-1], rng))
    return sampled


def _render_chunk(task: tuple[int, int]) -> PoolChunk:
    _, seed = task
    return [
        (scene, np.asarray(scenes.draw(scene, seed * CHUNK + index)))
        for index, scene in enumerate(_sample(task))
    ]


def _join(chunks: list[PoolChunk]) -> Pool:
    truths = [scene for chunk in chunks for scene, _ in chunk]
    altered = range(0, len(truths), ALTERED_EVERY)
    labels = [patch_labels(scene) for scene in truths]
    grounds = [(_BACKGROUNDS.index(s.background), scenes.PATTERNS.index(s.pattern)) for s in truths]
    return Pool(
        scenes=truths,
        images=np.stack([image for chunk in chunks for _, image in chunk]),
        things=np.stack([things for things, _ in labels]),
        centres=np.stack([centres for _, centres in labels]),
        grounds=np.array(grounds, np.uint8),
        by_count={
            n: [
                index
                for index, scene in enumerate(truths)
                if len(scene.shapes) == n and index - 1 not in altered
            ]
            for n in (1, 2, 3)
        },
        altered=list(altered),
    )
