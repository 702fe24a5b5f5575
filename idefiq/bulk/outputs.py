"""Where answers go, told by the name of the output.

FILE.jsonl .csv .tsv .parquet    a row each: the source's own columns, answer, error, model
metadata.jsonl metadata.csv      `file_name` and `text`, as Hugging Face's image folders want them
FILE.txt                         name, tab, answer; failures are left out
NAME-%06d.tar                    webdataset shards: image, .txt and .json of each sample
DIR/                             a text file for each image, in the same tree
--sidecar .txt                   the same, beside the images

Files are written aside and renamed, so a reader sees an old one or a new one, whole.
"""

import contextlib
import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any

from idefiq.bulk.ask import Plan
from idefiq.bulk.manifest import Image
from idefiq.bulk.sources import Reader
from idefiq.types import IdefiqError

SIDECARS = (".txt", ".caption")
#: Rows written to Parquet at once.
PARQUET_ROWS = 5_000


def check(plan: Plan) -> None:
    """Say before any work what cannot be written.

    Raises:
        IdefiqError: The output's form is unknown, its folder is not there, or a library is not.
    """
    if plan.sidecar and plan.sidecar not in SIDECARS:
        raise IdefiqError(f"{plan.sidecar!r}: a sidecar is one of {', '.join(SIDECARS)}")
    if plan.out is None or writes_texts(plan):
        return
    _writer(plan)
    parent = Path(plan.out).parent
    if not parent.is_dir():
        raise IdefiqError(f"{plan.out!r}: there is no folder {str(parent)!r}")
    if plan.out.endswith(".parquet"):
        _library("pyarrow", plan.out)
    if plan.out.endswith(".tar"):
        _library("webdataset", plan.out)


def _library(name: str, out: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise IdefiqError(f"{out!r} needs {name}: pip install 'idefiq[files]'") from error


def writes_texts(plan: Plan) -> bool:
    """Whether there is a text file for each image."""
    return bool(plan.sidecar) or (
        plan.out is not None and (plan.out.endswith(os.sep) or Path(plan.out).is_dir())
    )


def text_path(plan: Plan, key: str) -> Path | None:
    """Where an image's text file is; None if there is no such place."""
    suffix = plan.sidecar or ".txt"
    if plan.out is None or not writes_texts(plan):
        return Path(key).with_suffix(suffix) if plan.sidecar and "://" not in key else None
    return (Path(plan.out) / _within(plan, key)).with_suffix(suffix)


def _within(plan: Plan, key: str) -> Path:
    """A key below the source that it was found in, so that the tree is kept."""
    for source in plan.sources:
        with contextlib.suppress(ValueError):
            return Path(key).relative_to(source)
        if "://" in source and key.startswith(source) and key != source:
            return _safe(key.removeprefix(source))
    return _safe(key.partition("://")[2] or key)


def _safe(name: str) -> Path:
    parts = [part for part in Path(name).parts if part not in ("..", ".", "/")]
    return Path(*parts) if parts else Path("unnamed")


def text_before(plan: Plan, key: str) -> str | None:
    """The text that is there already, if any."""
    path = text_path(plan, key)
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def write_text(plan: Plan, image: Image) -> None:
    """Write one image's text file. Safe to repeat: what was there before is remembered."""
    path = text_path(plan, image.key)
    assert image.text is not None
    if path is None:
        return
    said = dressed(plan, image.text)
    before = image.before.strip() if image.before else ""
    if before and plan.existing == "append":
        said = f"{before}\n{said}"
    elif before and plan.existing == "prepend":
        said = f"{said}\n{before}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(said.encode() + b"\n")


def dressed(plan: Plan, text: str) -> str:
    """An answer with what the user wants before and after it."""
    return f"{plan.prefix}{text}{plan.suffix}"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write a file aside; it takes its place when the block ends well."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


# ---- one file for all ---------------------------------------------------------------

Write = Callable[[Plan, Iterable[Image], Path], None]


def write(plan: Plan, images: Iterable[Image]) -> None:
    """Write the one output of a run from all images that have ended."""
    if plan.out is not None and not writes_texts(plan):
        _writer(plan)(plan, images, Path(plan.out))


def row(plan: Plan, image: Image) -> dict[str, Any]:
    """An image as a row: what its source says, then the answer."""
    said: dict[str, Any] = {**(image.columns or {"file": image.key})}
    said["answer"] = dressed(plan, image.text) if image.text is not None else None
    said["error"] = image.error
    if image.answer and "scores" in image.answer:
        said["scores"] = image.answer["scores"]
    if plan.model:
        said["model"] = plan.model
    return said


def _writer(plan: Plan) -> Write:
    path = Path(str(plan.out))
    if path.name in ("metadata.jsonl", "metadata.csv"):
        return _metadata
    writers: dict[str, Write] = {
        ".jsonl": _jsonl,
        ".csv": _csv,
        ".tsv": _csv,
        ".txt": _txt,
        ".parquet": _parquet,
        ".tar": _shards,
    }
    if path.suffix not in writers:
        raise IdefiqError(
            f"{plan.out!r}: write to a {', '.join(writers)} file, or to a folder that is there or"
            " ends with a slash"
        )
    if path.suffix == ".tar" and "%" not in path.name:
        raise IdefiqError(f"{plan.out!r}: shards are numbered: name them like captions-%06d.tar")
    return writers[path.suffix]


def jsonl_lines(plan: Plan, images: Iterable[Image]) -> Iterator[bytes]:
    """Rows as JSON Lines."""
    for image in images:
        yield json.dumps(row(plan, image), ensure_ascii=False).encode() + b"\n"


def txt_lines(plan: Plan, images: Iterable[Image]) -> Iterator[bytes]:
    """Name, tab, answer on one line."""
    for image in images:
        if image.text is not None and image.error is None:
            said = " ".join(dressed(plan, image.text).split())
            yield f"{image.columns.get('file', image.key)}\t{said}\n".encode()


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
        {"file_name": _relative(image.key, root), "text": dressed(plan, image.text)}
        for image in images
        if image.text is not None and image.error is None
    )
    if path.suffix == ".csv":
        _table(path, rows, "excel")
        return
    with replacing(path) as file:
        file.writelines(json.dumps(each, ensure_ascii=False).encode() + b"\n" for each in rows)


def _relative(key: str, root: Path) -> str:
    """A file's name as seen from the metadata's folder."""
    return key if "://" in key else os.path.relpath(Path(key).resolve(), root)


def _table(path: Path, rows: Iterable[dict[str, Any]], dialect: str) -> None:
    """Rows whose columns are not known before the last; spooled, so that memory stays flat."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as spool:
        names: dict[str, None] = {}
        for each in rows:
            names |= dict.fromkeys(each)
            spool.write(json.dumps(each, ensure_ascii=False) + "\n")
        spool.seek(0)
        with replacing(path) as file:
            wrapped = _Text(file)
            table = csv.DictWriter(wrapped, list(names), dialect=dialect)
            table.writeheader()
            for line in spool:
                table.writerow({name: _cell(value) for name, value in json.loads(line).items()})


class _Text:
    """What csv writes to, as bytes."""

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
                kinds.setdefault(name, set()).update({type(value)} - {type(None)})
            spool.write(json.dumps(each, ensure_ascii=False) + "\n")
        schema = pyarrow.schema([(name, pyarrow.null()) for name in kinds])
        for rows in _spooled(spool, kinds):
            found = pyarrow.Table.from_pylist(rows).schema
            schema = pyarrow.unify_schemas([schema, found], promote_options="permissive")
        # A column in which there is nothing is one of text.
        fields = [
            (f.name, pyarrow.string() if f.type == pyarrow.null() else f.type) for f in schema
        ]
        schema = pyarrow.schema(fields)
        with replacing(path) as file, pyarrow.parquet.ParquetWriter(file, schema) as writer:
            for rows in _spooled(spool, kinds):
                writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))


def _spooled(spool: IO[str], kinds: Mapping[str, set[type]]) -> Iterator[list[dict[str, Any]]]:
    """Spooled rows, some at a time; a column whose values are of several types is one of text."""
    mixed = {name for name, types in kinds.items() if len(types) > 1 and types != {int, float}}
    spool.seek(0)
    while lines := list(islice(spool, PARQUET_ROWS)):
        rows = map(json.loads, lines)
        yield [
            {name: _as_text(value) if name in mixed else value for name, value in each.items()}
            for each in rows
        ]


def _as_text(value: Any) -> str | None:
    return None if value is None else str(_cell(value))


def _shards(plan: Plan, images: Iterable[Image], path: Path) -> None:
    import webdataset

    with tempfile.TemporaryDirectory() as folder:
        reader = Reader(Path(folder))
        with webdataset.ShardWriter(str(path), maxcount=plan.shard_items, verbose=0) as shards:
            for image in images:
                if image.text is None or image.error is not None:
                    continue
                sample: dict[str, Any] = {
                    "__key__": f"{image.number:09}",
                    "txt": dressed(plan, image.text),
                    "json": row(plan, image),
                }
                if "reference" not in image.location:
                    held = reader.path(image.location)
                    suffix = Path(image.columns.get("file", "")).suffix.lower() or ".img"
                    sample[suffix[1:]] = held.read_bytes()
                    if held.parent == Path(folder):
                        held.unlink()
                shards.write(sample)
