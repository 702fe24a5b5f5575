"""An environment like that of an image: the wheel, and the libraries of one extra and no others.

The wheel is built from exactly the files that the Dockerfile copies. Libraries are not downloaded:
those that the extra asks for, and what they ask for, are linked from the tests' own environment.
"""

import importlib.metadata
import re
import shutil
import subprocess
import sys
from importlib.metadata import Distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"


def stages() -> dict[str, str]:
    """The text of each stage of the Dockerfile, by its name."""
    found = re.split(r"^FROM \S+ AS (\w+)$", DOCKERFILE.read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(found[::2], found[1::2], strict=True))


def copied() -> list[str]:
    """What the stage that builds the wheel copies from the checkout."""
    lines = re.findall(r"^COPY (.+)$", stages()["wheel"], re.MULTILINE)
    return [word for line in lines for word in line.split()[:-1]]


def extra_of(stage: str) -> str:
    """The extra that a stage installs."""
    [extra] = re.findall(r"\[(\w+)\]\"", stages()[stage])
    return str(extra)


def command_of(stage: str) -> list[str]:
    """The command that a stage's image runs."""
    [words] = re.findall(r"^CMD \[(.+)\]$", stages()[stage], re.MULTILINE)
    return re.findall(r'"([^"]+)"', words)


def build_wheel(folder: Path) -> Path:
    """Build the wheel from what the Dockerfile copies. Returns its file."""
    source = folder / "source"
    source.mkdir()
    for name in copied():
        place = source / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, place, ignore=ignored, symlinks=True)
        else:
            shutil.copy(ROOT / name, place)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "wheels", source)
    [wheel] = (folder / "wheels").glob("*.whl")
    return wheel


def environment(folder: Path, wheel: Path, extra: str) -> Path:
    """Install the wheel with the libraries of an extra. Returns the folder of its programs."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    _pip("--python", folder / "bin" / "python", "install", "--no-deps", wheel)
    [site] = folder.glob("lib/python*/site-packages")
    [installed] = importlib.metadata.distributions(name="idefiq", path=[str(site)])
    for library in _needed(installed, {extra}):
        for file in {Path(str(file)).parts[0] for file in library.files or ()} - {".."}:
            there = Path(str(library.locate_file(file)))
            if there.exists() and not (site / file).exists() and file != "__pycache__":
                (site / file).symlink_to(there)
    return folder / "bin"


def _needed(distribution: Distribution, extras: set[str]) -> list[Distribution]:
    """All distributions that one needs, with some of its extras, and theirs."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(distribution, frozenset(extras))]
    while waiting:
        current, wanted = waiting.pop()
        for text in current.requires or ():
            needed = Requirement(text)
            contexts = [{"extra": extra} for extra in (wanted or {""})]
            if needed.marker and not any(map(needed.marker.evaluate, contexts)):
                continue
            key = (needed.name, frozenset(needed.extras))
            if key in seen:
                continue
            seen.add(key)
            one = distribution if needed.name == "idefiq" else Distribution.from_name(needed.name)
            if one is not distribution:
                found[needed.name] = one
            waiting.append((one, frozenset(needed.extras)))
    return list(found.values())


def _pip(*words: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words]
    subprocess.run(command, check=True, capture_output=True)
