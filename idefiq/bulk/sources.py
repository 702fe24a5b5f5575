"""Sources of images: folders, globs, tables, shards and references.

DIR GLOB FILE                every image, in order; hidden files are left alone
.csv .tsv .jsonl .parquet    a row each; a column names the image, or holds it
.tar                         a sample each, as webdataset packs them
https://… s3://bucket/key    read by the service itself

A source is read lazily. What cannot be read becomes a record that says why.
"""

import glob
import itertools
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from idefiq.bulk.records import REFERENCES, Record, as_text, safe, stamp_of
from idefiq.bulk.tables import rows_of
from idefiq.errors import IdefiqError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif", ".heic", ".heif"})
TABLES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"})


def normal(word: str) -> str:
    """Return the one form under which a source is recorded."""
    return f"{word}/" if is_bucket(word) and not word.endswith("/") else word


def is_bucket(word: str) -> bool:
    """True for a bucket or prefix that the service lists."""
    return word.startswith("s3://") and (word.endswith("/") or word.count("/") == 2)


def find(
    words: Sequence[str], *, recursive: bool = True, image_column: str | None = None
) -> Iterator[Record]:
    """Yield every record of some sources.

    Raises:
        IdefiqError: A source does not exist, or is no source.
    """
    for word in words:
        for record in _find_one(word, recursive, image_column):
            yield replace(record, source=word)


def check(words: Iterable[str]) -> None:
    """Raise early if a source does not exist.

    Raises:
        IdefiqError: One does not.
    """
    for word in words:
        if not word.strip():
            raise IdefiqError("a source is empty: is a variable not set?")
        path = Path(word)
        if not word.startswith(REFERENCES) and not path.exists() and not _globbed(word):
            raise IdefiqError(f"no such file or folder: {word!r}")
        if path.exists() and not path.is_dir() and not path.is_file():
            raise IdefiqError(f"{word!r} is neither a file nor a folder")


def _find_one(word: str, recursive: bool, image_column: str | None) -> Iterator[Record]:
    if word.startswith(REFERENCES):
        yield Record(word, {"reference": word}, {"file": word}, place=safe(word))
        return
    path = Path(word)
    if path.is_dir():
        for file in _below(path, recursive):
            yield _file(file, path)
    elif not path.exists():
        for file in _globbed(word):
            yield _file(file, _glob_root(word))
    elif path.suffix.lower() == ".tar":
        yield from _shard(path)
    elif path.suffix.lower() in TABLES:
        yield from rows_of(path, image_column)
    else:
        yield _file(path, path.parent)


def local_folder(words: Sequence[str]) -> Path | None:
    """Folder of the first source that is one, or is in one."""
    for word in words:
        if not word.startswith(REFERENCES):
            path = Path(word)
            return path if path.is_dir() else path.parent if path.exists() else _glob_root(word)
    return None


def _below(folder: Path, recursive: bool) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith(".") and path.is_file():
                yield path
        if not recursive:
            return


def _globbed(pattern: str) -> list[Path]:
    if not glob.has_magic(pattern):
        return []
    return [
        path for path in map(Path, sorted(glob.glob(pattern, recursive=True))) if path.is_file()
    ]


def _glob_root(pattern: str) -> Path:
    """Longest folder of a glob without magic characters."""
    parts = itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts[:-1])
    return Path(*parts)


def _file(path: Path, root: Path) -> Record:
    columns, place = {"file": as_text(path)}, safe(as_text(path.relative_to(root)))
    try:
        stamp = stamp_of(path)
    except OSError as error:
        return Record(as_text(path), {}, columns, error=error.strerror or str(error), place=place)
    return Record(as_text(path), {"file": str(path)}, columns, stamp, place=place)


# ---- shards -------------------------------------------------------------------------


def _shard(path: Path) -> Iterator[Record]:
    """Yield a record for each image of a tar; its text and JSON are columns."""
    try:
        stamp = stamp_of(path)
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                if member.isfile() and name.suffix.lower() in SUFFIXES:
                    place = {
                        "tar": str(path),
                        "offset": member.offset_data,
                        "size": member.size,
                    }
                    columns = {"file": str(name), "shard": as_text(path)}
                    yield Record(
                        f"{as_text(path)}/{name}",
                        place,
                        columns,
                        f"{member.offset_data}:{member.size}:{stamp}",
                        place=safe(str(name)),
                    )
    except tarfile.TarError as error:
        yield Record(as_text(path), {}, {"file": as_text(path)}, error=f"no readable tar: {error}")
