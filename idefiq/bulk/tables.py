"""Tables as sources: each row names an image in a column, or holds it."""

import contextlib
import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from idefiq.bulk.records import REFERENCES, Location, Record, as_text, safe, stamp_of
from idefiq.errors import IdefiqError

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


def rows_of(path: Path, image_column: str | None) -> Iterator[Record]:
    """Yield a record for each row of a table.

    Raises:
        IdefiqError: No column names images.
    """
    readers = {".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
    rows = readers.get(path.suffix.lower(), _jsonl)(path, image_column)
    number = 0
    try:
        for number, (columns, location, error) in enumerate(rows, 1):
            yield _row(path, number, columns, location, error)
    except (ValueError, csv.Error, OSError) as error:
        # What is broken stays so: the rows before it are good.
        why = f"the table cannot be read any further: {error}"
        yield Record(f"{as_text(path)}:{number + 1}", {}, {"file": as_text(path)}, error=why)


def _row(
    table: Path, number: int, columns: dict[str, Any], location: Location, error: str | None
) -> Record:
    """Make a record; its fingerprint covers the row's cells and the file that it names."""
    fingerprinted = json.dumps([columns, location, error], sort_keys=True, default=str)
    stamp, place = hashlib.sha256(fingerprinted.encode()).hexdigest()[:16], f"{table.stem}-{number}"
    if "file" in location:
        with contextlib.suppress(OSError):
            stamp += stamp_of(Path(location["file"]))
        named = Path(location["file"])
        below = named.is_relative_to(table.parent)
        place = as_text(named.relative_to(table.parent) if below else named.name)
    elif "parquet" in location:
        stamp += stamp_of(table)
    elif "reference" in location and not location["reference"].startswith("data:"):
        place = location["reference"]
    return Record(
        f"{as_text(table)}:{number}", location, columns, stamp, error=error, place=safe(place)
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
                    row.setdefault("file", f"{as_text(path.name)}:{number + 1}")
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
    if value.startswith(REFERENCES):
        return columns, {"reference": value}, None
    return columns, {"file": str(table.parent / value)}, None
