"""Where images come from: folders, globs, tables, shards and references.

DIR GLOB FILE                every image, in order; hidden files are left alone
.csv .tsv .jsonl .parquet    a row each; a column names the image, or holds it
.tar                         a sample each, as webdataset packs them
https://… s3://bucket/key    read by the service itself

A source is read lazily. What cannot be read becomes a record that says why.
"""

import contextlib
import csv
import glob
import hashlib
import itertools
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from idefiq.types import IdefiqError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif", ".heic", ".heif"})
TABLES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"})
#: Columns that name the image, in the order in which they are looked for.
IMAGE_COLUMNS = (
    "image",
    "file_name",
    "file",
    "path",
    "url",
    "image_url",
    "image_path",
    "images",
)
_REFERENCES = ("http://", "https://", "s3://", "blob:", "data:")

#: Where an image is: {"file"} | {"reference"} | {"tar", "offset", "size"} | {"parquet", "row", …}
Location = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """One image to ask about.

    Attributes:
        key: Its name, its own among all records of a run.
        location: Where it is.
        columns: What else its source says of it.
        stamp: Changes when what is there does.
        error: Why it cannot be read, if so.
        place: A path for it in a tree of its own, without steps up.
    """

    key: str
    location: Location
    columns: dict[str, Any] = field(default_factory=dict)
    stamp: str = ""
    error: str | None = None
    place: str = "unnamed"


def normal(word: str) -> str:
    """A source in the one form under which it is remembered."""
    return f"{word}/" if is_bucket(word) and not word.endswith("/") else word


def is_bucket(word: str) -> bool:
    """Whether a source is a bucket or prefix that the service is to list."""
    return word.startswith("s3://") and (word.endswith("/") or word.count("/") == 2)


def find(
    words: Sequence[str], *, recursive: bool = True, image_column: str | None = None
) -> Iterator[Record]:
    """Every record of some sources.

    Raises:
        IdefiqError: A source does not exist, or is no source.
    """
    for word in words:
        yield from _find_one(word, recursive, image_column)


def check(words: Iterable[str]) -> None:
    """Say early which source does not exist.

    Raises:
        IdefiqError: One does not.
    """
    for word in words:
        if not word.startswith(_REFERENCES) and not Path(word).exists() and not _globbed(word):
            raise IdefiqError(f"there is no {word!r}")


def _find_one(word: str, recursive: bool, image_column: str | None) -> Iterator[Record]:
    if word.startswith(_REFERENCES):
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
        yield from _rows(path, image_column)
    else:
        yield _file(path, path.parent)


def local_folder(words: Sequence[str]) -> Path | None:
    """The folder of the first source that is one, or is in one."""
    for word in words:
        if not word.startswith(_REFERENCES):
            path = Path(word)
            return path if path.is_dir() else path.parent if path.exists() else _glob_root(word)
    return None


def safe(name: str) -> str:
    """A name or reference as a path that leads nowhere else."""
    if name.startswith(("data:", "blob:")):
        return "unnamed"
    plain = name.partition("://")[2].partition("?")[0].partition("/")[2] if "://" in name else name
    parts = [part for part in PurePosixPath(plain).parts if part not in ("..", ".", "/")]
    return "/".join(part.replace("\\", "_").replace("\0", "_") for part in parts) or "unnamed"


def _below(folder: Path, recursive: bool) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield Path(parent, name)
        if not recursive:
            return


def _globbed(pattern: str) -> list[Path]:
    if not glob.has_magic(pattern):
        return []
    return [
        path for path in map(Path, sorted(glob.glob(pattern, recursive=True))) if path.is_file()
    ]


def _glob_root(pattern: str) -> Path:
    """The folder of a glob that has no magic in it."""
    parts = itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts[:-1])
    return Path(*parts)


def _file(path: Path, root: Path) -> Record:
    columns, place = {"file": _text(path)}, safe(_text(path.relative_to(root)))
    try:
        stamp = _stamp(path)
    except OSError as error:
        return Record(_text(path), {}, columns, error=error.strerror or str(error), place=place)
    return Record(_text(path), {"file": str(path)}, columns, stamp, place=place)


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size}:{status.st_mtime_ns}"


def _text(path: object) -> str:
    """A path as text that can be stored and sent, whatever bytes it has."""
    return str(path).encode(errors="replace").decode()


# ---- tables -------------------------------------------------------------------------


def _rows(path: Path, image_column: str | None) -> Iterator[Record]:
    readers = {".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
    rows = readers.get(path.suffix.lower(), _jsonl)(path, image_column)
    number = 0
    try:
        for number, (columns, location, error) in enumerate(rows, 1):
            yield _row(path, number, columns, location, error)
    except (ValueError, csv.Error, OSError) as error:
        # What is broken stays so: the rows before it are good.
        why = f"the table cannot be read any further: {error}"
        yield Record(f"{_text(path)}:{number + 1}", {}, {"file": _text(path)}, error=why)


def _row(
    table: Path, number: int, columns: dict[str, Any], location: Location, error: str | None
) -> Record:
    """A row is another one when what it says changes, or the file that it names does."""
    said = json.dumps([columns, location, error], sort_keys=True, default=str)
    stamp, place = hashlib.sha256(said.encode()).hexdigest()[:16], f"{table.stem}-{number}"
    if "file" in location:
        with contextlib.suppress(OSError):
            stamp += _stamp(Path(location["file"]))
        named = Path(location["file"])
        below = named.is_relative_to(table.parent)
        place = _text(named.relative_to(table.parent) if below else named.name)
    elif "parquet" in location:
        stamp += _stamp(table)
    elif "reference" in location and not location["reference"].startswith("data:"):
        place = location["reference"]
    return Record(
        f"{_text(table)}:{number}", location, columns, stamp, error=error, place=safe(place)
    )


Row = tuple[dict[str, Any], Location, str | None]


def _csv(path: Path, image_column: str | None) -> Iterator[Row]:
    dialect = "excel-tab" if path.suffix.lower() == ".tsv" else "excel"
    csv.field_size_limit(2**31 - 1)  # a cell may be a data: image
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.DictReader(file, dialect=dialect, restkey="")
        column = _column(path, reader.fieldnames or (), image_column)
        for row in reader:
            row.pop("", None)
            yield _located(path, row, row.get(column))


def _jsonl(path: Path, image_column: str | None) -> Iterator[Row]:
    with path.open("rb") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                yield {}, {}, f"the line is no JSON: {error}"
                continue
            if isinstance(row, str):
                row = {"file": row}
            if not isinstance(row, dict):
                yield {}, {}, "the line is neither an object nor a string"
                continue
            try:
                column = _column(path, row, image_column)
            except IdefiqError as error:
                yield row, {}, str(error)
                continue
            yield _located(path, row, row[column])


def _parquet(path: Path, image_column: str | None) -> Iterator[Row]:
    try:
        import pyarrow.parquet
        import pyarrow.types
    except ImportError as error:
        raise IdefiqError(f"{str(path)!r} needs pyarrow: pip install 'idefiq[files]'") from error
    with pyarrow.parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
        column = _column(path, schema.names, image_column)
        kind = schema.field(column).type
        held = not pyarrow.types.is_string(kind) and not pyarrow.types.is_large_string(kind)
        names = [name for name in schema.names if not (held and name == column)]
        number = 0
        for batch in file.iter_batches(batch_size=1_000, columns=names):
            rows = batch.to_pylist() if names else [{} for _ in range(batch.num_rows)]
            for row in rows:
                if held:
                    place = {"parquet": str(path), "row": number, "column": column}
                    yield row, place, None
                else:
                    yield _located(path, row, row[column])
                number += 1


def _column(path: Path, names: Iterable[str], wanted: str | None) -> str:
    known = list(names)
    candidates = [wanted] if wanted else IMAGE_COLUMNS
    for name in candidates:
        if name in known:
            return name
    missing = f"no column {wanted!r}" if wanted else "no column that names images"
    raise IdefiqError(
        f"{str(path)!r} has {missing}; it has {', '.join(known) or 'none'}:"
        " say which with --image-column"
    )


def _located(table: Path, row: Mapping[str, Any], value: Any) -> Row:
    columns = {name: each for name, each in row.items() if not isinstance(each, bytes)}
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str) or not value.strip():
        return columns, {}, "the row names no image"
    if value.startswith(_REFERENCES):
        return columns, {"reference": value}, None
    return columns, {"file": str(table.parent / value)}, None


# ---- shards -------------------------------------------------------------------------


def _shard(path: Path) -> Iterator[Record]:
    """A record for each image of a tar; text beside it with the same name are its columns."""
    try:
        stamp = _stamp(path)
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                if member.isfile() and name.suffix.lower() in SUFFIXES:
                    place = {
                        "tar": str(path),
                        "offset": member.offset_data,
                        "size": member.size,
                        "name": name.name,
                    }
                    columns = {"file": str(name), "shard": _text(path)}
                    yield Record(
                        f"{_text(path)}/{name}",
                        place,
                        columns,
                        f"{member.offset_data}:{member.size}:{stamp}",
                        place=safe(str(name)),
                    )
    except tarfile.TarError as error:
        yield Record(_text(path), {}, {"file": _text(path)}, error=f"no readable tar: {error}")


# ---- bytes --------------------------------------------------------------------------


class Reader:
    """Brings images that are inside other files into files of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._group: tuple[str, int, list[Any]] | None = None
        self._made = 0

    @contextlib.contextmanager
    def file(self, location: Location) -> Iterator[Path]:
        """The image as a file that need only last for the block."""
        path = self.path(location)
        yield path
        if path.parent == self._folder:
            path.unlink()

    def path(self, location: Location) -> Path:
        """The image as a file.

        Raises:
            OSError: It cannot be read.
            IdefiqError: There is nothing.
        """
        if "file" in location:
            return Path(location["file"])
        if "tar" in location:
            with Path(location["tar"]).open("rb") as file:
                file.seek(location["offset"])
                return self._kept(file.read(location["size"]))
        if "parquet" in location:
            data = self._cell(location)
            if not data:
                raise IdefiqError("the row holds no image")
            return self._kept(data)
        raise IdefiqError("there is no image")

    def _kept(self, data: bytes) -> Path:
        self._made += 1
        path = self._folder / str(self._made)
        path.write_bytes(data)
        return path

    def _cell(self, location: Location) -> bytes | None:
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(location["parquet"]) as file:
            row, group = location["row"], 0
            while row >= (count := file.metadata.row_group(group).num_rows):
                row, group = row - count, group + 1
            if self._group is None or self._group[:2] != (location["parquet"], group):
                column = file.read_row_group(group, columns=[location["column"]])
                values = column.column(0).to_pylist()
                self._group = (location["parquet"], group, values)
        value = self._group[2][row]
        if isinstance(value, list):  # the first of several
            value = value[0] if value else None
        value = value.get("bytes") if isinstance(value, dict) else value
        return value if isinstance(value, bytes) else None
