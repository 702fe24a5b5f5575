"""Formats of one file for all images: an object for each, which writes its rows.

A new format is a function that writes and a line in `FORMATS`.
"""

import contextlib
import csv
import json
import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from idefiq.bulk.ask import Plan
from idefiq.bulk.images import Image
from idefiq.errors import IdefiqError

#: Rows written to Parquet at once.
PARQUET_ROWS = 5_000

#: Columns that are ours; a source's own of the same name is kept under another.
OURS = frozenset({"answer", "error", "issues", "model", "scores"})


def dressed(plan: Plan, text: str) -> str:
    """Return an answer with the user's prefix and suffix."""
    return f"{plan.prefix}{text}{plan.suffix}"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write a file aside; it replaces the old one when the block succeeds."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        mode = path.stat().st_mode & 0o777 if path.exists() else public_mode()
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def public_mode() -> int:
    """Mode of a new file, by the user's umask."""
    mask = os.umask(0o022)
    os.umask(mask)
    return 0o666 & ~mask


def row(plan: Plan, image: Image) -> dict[str, Any]:
    """Make a row of an image: the columns of its source, the fields of a schema, the answer."""
    fields = plan.ask.fields
    columns = image.columns or {"file": image.key}
    # What is ours keeps its name, then fields of the schema, then columns of the source.
    of_fields = _free_names(fields, "answer", OURS)
    of_source = _free_names(columns, "source", OURS.union(of_fields.values()))
    values = {of_source[name]: value for name, value in columns.items()}
    data = (image.answer or {}).get("data")
    for name in fields:
        values[of_fields[name]] = data.get(name) if isinstance(data, dict) else None
    values["answer"] = dressed(plan, image.answer_text) if image.answer_text is not None else None
    values["error"] = image.error
    if image.answer and (issues := image.answer.get("issues")):
        values["issues"] = " ".join(issues)
    if image.answer and "scores" in image.answer:
        values["scores"] = image.answer["scores"]
    if plan.model:
        values["model"] = plan.model
    return values


def _free_names(names: Collection[str], origin: str, taken: Collection[str]) -> dict[str, str]:
    """Return a name for each column that no other has: `origin_name` for one that is taken."""
    found = {name: name for name in names if name not in taken}
    for name in names:
        free = name
        while free in taken or free in found.values():
            free = f"{origin}_{free}"
        found.setdefault(name, free)
    return found


def jsonl_lines(plan: Plan, images: Iterable[Image]) -> Iterator[bytes]:
    """Render rows as JSON Lines."""
    for image in images:
        yield json.dumps(row(plan, image), ensure_ascii=False).encode() + b"\n"


def txt_lines(plan: Plan, images: Iterable[Image]) -> Iterator[bytes]:
    """Render name, tab, answer on one line."""
    for image in images:
        if image.answer_text is not None and image.error is None:
            values = " ".join(dressed(plan, image.answer_text).split())
            yield f"{image.columns.get('file', image.key)}\t{values}\n".encode()


def _jsonl(plan: Plan, images: Iterable[Image], path: Path) -> None:
    with replacing(path) as file:
        file.writelines(jsonl_lines(plan, images))


def _txt(plan: Plan, images: Iterable[Image], path: Path) -> None:
    with replacing(path) as file:
        file.writelines(txt_lines(plan, images))


def _csv(plan: Plan, images: Iterable[Image], path: Path) -> None:
    dialect = "excel-tab" if path.suffix == ".tsv" else "excel"
    _table(path, (row(plan, image) for image in images), dialect)


def _metadata(plan: Plan, images: Iterable[Image], path: Path) -> None:
    root = path.parent.resolve()
    rows = (
        {"file_name": _relative(image, root), "text": dressed(plan, image.answer_text)}
        for image in images
        if image.answer_text is not None and image.error is None
    )
    if path.suffix == ".csv":
        _table(path, rows, "excel")
        return
    with replacing(path) as file:
        file.writelines(json.dumps(each, ensure_ascii=False).encode() + b"\n" for each in rows)


def _relative(image: Image, root: Path) -> str:
    """A file's name relative to the metadata's folder, or a reference unchanged."""
    if "file" not in image.location:
        return str(image.location.get("reference", image.key))
    return os.path.relpath(Path(image.location["file"]).resolve(), root)


def _table(path: Path, rows: Iterable[dict[str, Any]], dialect: str) -> None:
    """Write rows whose columns are known only after the last; spooled, so memory stays flat."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as spool:
        names: dict[str, None] = {}
        for each in rows:
            names |= dict.fromkeys(each)
            spool.write(json.dumps(each, ensure_ascii=False) + "\n")
        spool.seek(0)
        with replacing(path) as file:
            table = csv.DictWriter(_Text(file), list(names), dialect=dialect)
            table.writeheader()
            for line in spool:
                table.writerow({name: _cell(value) for name, value in json.loads(line).items()})


class _Text:
    """A text file for the csv module, over a binary file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, text: str) -> int:
        return self._file.write(text.encode())


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


def _parquet(plan: Plan, images: Iterable[Image], path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    with tempfile.TemporaryFile("w+", encoding="utf-8") as spool:
        kinds: dict[str, set[type]] = {}
        for image in images:
            each = row(plan, image)
            for name, value in each.items():
                # Nested values may have any shape in each row: they go as JSON.
                kind = str if _is_text(name, value) else type(value)
                kinds.setdefault(name, set()).update({kind} - {type(None)})
            spool.write(json.dumps(each, ensure_ascii=False) + "\n")
        schema = pyarrow.schema([(name, pyarrow.null()) for name in kinds])
        for rows in _spooled(spool, kinds):
            found = pyarrow.Table.from_pylist(rows).schema
            schema = pyarrow.unify_schemas([schema, found], promote_options="permissive")
        # A column in which there is nothing is one of text.
        text, null = pyarrow.string(), pyarrow.null()
        schema = pyarrow.schema([(f.name, text if f.type == null else f.type) for f in schema])
        with replacing(path) as file, pyarrow.parquet.ParquetWriter(file, schema) as writer:
            for rows in _spooled(spool, kinds):
                writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))


def _is_text(name: str, value: Any) -> bool:
    """True if a value is written to Parquet as a text: it is nested, or longer than 64 bits."""
    is_long = isinstance(value, int) and not -(2**63) <= value < 2**63
    return is_long or (isinstance(value, dict | list) and name != "scores")


def _spooled(spool: IO[str], kinds: Mapping[str, set[type]]) -> Iterator[list[dict[str, Any]]]:
    """Yield spooled rows; a column whose values have several types becomes text."""
    mixed = {name for name, types in kinds.items() if len(types) > 1 and types != {int, float}}
    spool.seek(0)
    while lines := list(islice(spool, PARQUET_ROWS)):
        rows = map(json.loads, lines)
        yield [
            {
                name: _as_text(value) if name in mixed or kinds[name] == {str} else value
                for name, value in each.items()
            }
            for each in rows
        ]


def _as_text(value: Any) -> str | None:
    return None if value is None else str(_cell(value))


@dataclass(frozen=True, slots=True)
class FileFormat:
    """A format of one file.

    Attributes:
        ending: Suffix of its files, or the whole name of the file.
        write: Writes the rows of images into a file.
        library: What must be installed for it.
        names_files: True if each row must name a file.
    """

    ending: str
    write: Callable[[Plan, Iterable[Image], Path], None]
    library: str | None = None
    names_files: bool = False


#: A whole name goes before a suffix.
FORMATS = (
    FileFormat("metadata.jsonl", _metadata, names_files=True),
    FileFormat("metadata.csv", _metadata, names_files=True),
    FileFormat(".jsonl", _jsonl),
    FileFormat(".csv", _csv),
    FileFormat(".tsv", _csv),
    FileFormat(".txt", _txt),
    FileFormat(".parquet", _parquet, library="pyarrow"),
)


#: Endings of files, as help texts show them: ".jsonl .csv …, metadata.jsonl …".
ENDINGS = " ".join(form.ending for form in FORMATS if form.ending.startswith(".")) + "".join(
    f", {form.ending}" for form in FORMATS if not form.ending.startswith(".")
)


def format_of(path: Path) -> FileFormat:
    """Return the format of a file of this name.

    Raises:
        IdefiqError: There is none.
    """
    for form in FORMATS:
        if form.ending == (path.suffix if form.ending.startswith(".") else path.name):
            return form
    endings = ", ".join(form.ending for form in FORMATS if form.ending.startswith("."))
    raise IdefiqError(
        f"{str(path)!r}: write to a {endings} file, to shards named like"
        " captions-%06d.tar, or to a folder that is there or ends with a slash"
    )
