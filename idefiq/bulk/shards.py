"""Webdataset shards: image, text and JSON of each sample, in numbered tar files."""

import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from idefiq.bulk.ask import Plan
from idefiq.bulk.formats import dressed, public_mode, row
from idefiq.bulk.images import Image
from idefiq.bulk.reader import Reader
from idefiq.errors import IdefiqError

_NUMBER = r"%0?\d*d"


def check_name(path: Path) -> None:
    """Reject a name that allows only one shard.

    Raises:
        IdefiqError: It has no number.
    """
    if len(re.findall("%", path.name)) != 1 or not re.search(_NUMBER, path.name):
        raise IdefiqError(f"{str(path)!r}: shards are numbered: name them like captions-%06d.tar")


def glob_of(path: Path) -> str:
    """Glob that matches every shard of a pattern."""
    parts = re.split(_NUMBER, path.name)
    return "[0-9]*".join(part.replace("[", "[[]") for part in parts)


def write(
    plan: Plan, images: Iterable[Image], path: Path, earlier: Sequence[str], *, replaces: bool
) -> list[str]:
    """Write shards aside, and replace this run's earlier ones with them.

    Args:
        earlier: Names of those.
        replaces: Whether others of these names may be replaced too.

    Returns:
        Names of the shards.

    Raises:
        IdefiqError: There are others of these names; nothing was changed.
    """
    import webdataset

    with (
        tempfile.TemporaryDirectory(dir=path.parent, prefix=".shards-") as aside,
        tempfile.TemporaryDirectory() as folder,
    ):
        reader = Reader(Path(folder))
        pattern = str(Path(aside) / path.name)
        with webdataset.ShardWriter(pattern, maxcount=plan.shard_items, verbose=0) as shards:
            for image in images:
                if image.answer_text is not None and image.error is None:
                    shards.write(_sample(plan, image, reader))
        made = sorted(Path(aside).iterdir())
        names = [each.name for each in made]
        for name in set(names) - set(earlier):
            if not replaces and (path.parent / name).exists():
                raise IdefiqError(
                    f"{str(path.parent / name)!r} is there, and not of this run:"
                    " --existing overwrite replaces it"
                )
        for each in made:
            each.chmod(public_mode())
            each.replace(path.parent / each.name)
        for name in set(earlier) - set(names):
            (path.parent / name).unlink(missing_ok=True)
        return names


def _sample(plan: Plan, image: Image, reader: Reader) -> dict[str, Any]:
    sample: dict[str, Any] = {
        "__key__": f"{image.number:09}",
        "txt": dressed(plan, image.answer_text or ""),
        "json": row(plan, image),
    }
    if "reference" not in image.location:
        with reader.file(image.location) as held:
            data = held.read_bytes()
            sample[_form(data)] = data
    return sample


def _form(data: bytes) -> str:
    """Suffix of an image by its first bytes."""
    beginnings = {b"\xff\xd8": "jpg", b"\x89PNG": "png", b"GIF8": "gif", b"RIFF": "webp"}
    known = (form for beginning, form in beginnings.items() if data.startswith(beginning))
    brand = {b"avif": "avif", b"avis": "avif"}.get(data[8:12], "heic")
    return next(known, brand if data[4:8] == b"ftyp" else "img")
