"""`python -m workers.demo.draw FOLDER COUNT`: scenes that the built-in model knows, as files."""

import argparse
import random
from pathlib import Path

from workers.demo import scenes


def draw(folder: Path, count: int, seed: int = 2026) -> list[Path]:
    """Distinct scenes as PNG files; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, paths = random.Random(seed), []
    for number in range(count):
        scene = scenes.sample(rng, canvas=scenes.CANVASES[number % len(scenes.CANVASES)])
        path = folder / f"{number:04}.png"
        path.write_bytes(scenes.encode(scene, number))
        paths.append(path)
    return paths


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("count", type=int)
    arguments = parser.parse_args()
    draw(arguments.folder, arguments.count)
