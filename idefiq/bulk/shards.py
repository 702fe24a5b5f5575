"""Webdataset shards: image, text and JSON of each sample, in numbered tar files."""

import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from idefiq.bulk.ask import Plan
from idefiq.bulk.images import Image
from idefiq.bulk.reader import Reader
from idefiq.bulk.writers import dressed, public_mode, row
from idefiq.types import IdefiqError

_NUMBER = r"%0?\d*d"


def check_name(path: Path) -> None:
    """Refuse a name under which there could be but one.

    Raises:
        IdefiqError: It has no number.
    """
    if not re.search(_NUMBER, path.name):
        raise IdefiqError(f"{str(path)!r}: shards are numbered: name them like captions-%06d.tar")


def glob_of(path: Path) -> str:
    """What matches every shard of a pattern."""
    parts = re.split(_NUMBER, path.name)
    return "[0-9]*".join(part.replace("[", "[[]") for part in parts)


def write(plan: Plan, images: Iterable[Image], path: Path) -> None:
    """Write shards aside, and put them in the place of all that were there."""
    import webdataset

    with (
        tempfile.TemporaryDirectory(dir=path.parent, prefix=".shards-") as aside,
        tempfile.TemporaryDirectory() as folder,
    ):
        reader = Reader(Path(folder))
        pattern = str(Path(aside) / path.name)
        with webdataset.ShardWriter(pattern, maxcount=plan.shard_items, verbose=0) as shards:
            for image in images:
                if image.said is not None and image.error is None:
                    shards.write(_sample(plan, image, reader))
        made: Sequence[Path] = sorted(Path(aside).iterdir())
        for each in made:
            each.chmod(public_mode())
            each.replace(path.parent / each.name)
        names = {each.name for each in made}
        for old in path.parent.glob(glob_of(path)):
            if old.name not in names:
                old.unlink()


def _sample(plan: Plan, image: Image, reader: Reader) -> dict[str, Any]:
    sample: dict[str, Any] = {
        "__key__": f"{image.number:09}",
        "txt": dressed(plan, image.said or ""),
        "json": row(plan, image),
    }
    if "reference" not in image.location:
        with reader.file(image.location) as held:
            suffix = Path(image.columns.get("file", "")).suffix.lower() or ".img"
            sample[suffix[1:]] = held.read_bytes()
    return sample
