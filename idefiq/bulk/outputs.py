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
import importlib.util
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import islice
from pathlib import Path
from typing import IO, Any

from idefiq.bulk.ask import Plan
from idefiq.bulk.manifest import Image
from idefiq.bulk.sources import Reader, Record, local_folder
from idefiq.types import IdefiqError

SIDECARS = (".txt", ".caption")
#: Rows written to Parquet at once.
PARQUET_ROWS = 5_000
#: Columns that are ours; a source's own of the same name is kept under another.
OURS = frozenset({"answer", "error", "model", "scores"})


class Form(Enum):
    """What an output is."""

    PRINT = auto()
    FILE = auto()
    SHARDS = auto()
    TREE = auto()
    BESIDE = auto()


@dataclass(frozen=True, slots=True)
class Output:
    """A plan's output, looked at once.

    Attributes:
        path: The file, the pattern of the shards, or the folder of the tree.
        suffix: Of text files.
    """

    form: Form
    path: Path
    suffix: str
    plan: Plan

    @property
    def writes_texts(self) -> bool:
        """Whether there is a text file for each image."""
        return self.form in (Form.TREE, Form.BESIDE)

    def manifest_path(self) -> Path | None:
        """Beside the output; None for a run that only prints.

        Raises:
            IdefiqError: There is no such place.
        """
        if self.form is Form.PRINT:
            return None
        if self.form is Form.TREE:
            return self.path / ".idefiq"
        if self.form in (Form.FILE, Form.SHARDS):
            return Path(f"{self.path}.idefiq")
        folder = local_folder(self.plan.sources)
        if folder is None:
            raise IdefiqError("say where the run is remembered, with --manifest FILE")
        return folder / ".idefiq"

    def is_there(self) -> bool:
        """Whether an output of this name exists."""
        if self.form is Form.FILE:
            return self.path.exists()
        if self.form is Form.SHARDS:
            return any(self.path.parent.glob(_shard_glob(self.path)))
        return False

    def texts(self, record: Record) -> list[Path]:
        """Where a record's text file may be, the first that no other image has."""
        if self.form is Form.BESIDE:
            if "file" not in record.location:
                return []
            image = Path(record.location["file"])
            return [image.with_suffix(self.suffix), Path(f"{image}{self.suffix}")]
        if self.form is not Form.TREE:
            return []
        place = self.path / record.place
        named = [place.with_suffix(self.suffix), Path(f"{place}{self.suffix}")]
        return [*named, *(Path(f"{place}-{n}{self.suffix}") for n in range(2, 1_000))]

    def write_text(self, image: Image) -> None:
        """Write one image's text file. Safe to repeat: what was there before is remembered."""
        assert image.said is not None
        if image.text is None:
            return
        existing = self.plan.existing
        before = image.before.strip() if image.before else ""
        if image.before is not None and existing == "skip":
            return  # it was there before this run knew of it
        said = dressed(self.plan, image.said)
        if before and existing == "append":
            said = f"{before}\n{said}"
        elif before and existing == "prepend":
            said = f"{said}\n{before}"
        path = Path(image.text)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(said.encode() + b"\n")

    def write(self, images: Iterable[Image]) -> None:
        """Write the one output of a run from all images that have ended."""
        if self.form is Form.SHARDS:
            _shards(self.plan, images, self.path)
        elif self.form is Form.FILE:
            _writer(self.path)(self.plan, images, self.path)


def resolve(plan: Plan) -> Output:
    """What a plan's output is.

    Raises:
        IdefiqError: It cannot be written: its form is unknown, what was said contradicts itself,
            its folder is not there, or a library is not.
    """
    if plan.sidecar and plan.sidecar not in SIDECARS:
        raise IdefiqError(f"{plan.sidecar!r}: a sidecar is one of {', '.join(SIDECARS)}")
    suffix = plan.sidecar or ".txt"
    if plan.out is None:
        form = Form.BESIDE if plan.sidecar else Form.PRINT
        return Output(form, Path(), suffix, plan)
    path = Path(plan.out)
    if plan.out.endswith(("/", os.sep)) or path.is_dir():
        return Output(Form.TREE, path, suffix, plan)
    _check_file(plan, path)
    return Output(Form.SHARDS if path.suffix == ".tar" else Form.FILE, path, suffix, plan)


def _check_file(plan: Plan, path: Path) -> None:
    if plan.sidecar:
        raise IdefiqError(f"{plan.out!r} is one file: --sidecar is for texts, in a FOLDER/ or none")
    if plan.existing in ("append", "prepend"):
        raise IdefiqError(f"{plan.out!r}: --existing {plan.existing} is for texts beside images")
    _writer(path)
    if not path.parent.is_dir():
        raise IdefiqError(f"{plan.out!r}: there is no folder {str(path.parent)!r}")
    library = {".parquet": "pyarrow", ".tar": "webdataset"}.get(path.suffix)
    if library and importlib.util.find_spec(library) is None:
        raise IdefiqError(f"{plan.out!r} needs {library}: pip install 'idefiq[files]'")


def text_before(path: Path) -> str | None:
    """The text that is there already, if any."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def dressed(plan: Plan, text: str) -> str:
    """An answer with what the user wants before and after it."""
    return f"{plan.prefix}{text}{plan.suffix}"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write a file aside; it takes its place when the block ends well."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}-")
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


# ---- rows ---------------------------------------------------------------------------


def row(plan: Plan, image: Image) -> dict[str, Any]:
    """An image as a row: what its source says, then the answer."""
    said = {
        f"source_{name}" if name in OURS else name: value for name, value in image.columns.items()
    }
    said = said or {"file": image.key}
    said["answer"] = dressed(plan, image.said) if image.said is not None else None
    said["error"] = image.error
    if image.answer and "scores" in image.answer:
        said["scores"] = image.answer["scores"]
    if plan.model:
        said["model"] = plan.model
    return said


def jsonl_lines(plan: Plan, images: Iterable[Image]) -> Iterator[bytes]:
    """Rows as JSON Lines."""
    for image in images:
        yield json.dumps(row(plan, image), ensure_ascii=False).encode() + b"\n"


def txt_lines(plan: Plan, images: Iterable[Image]) -> Iterator[bytes]:
    """Name, tab, answer on one line."""
    for image in images:
        if image.said is not None and image.error is None:
            said = " ".join(dressed(plan, image.said).split())
            yield f"{image.columns.get('file', image.key)}\t{said}\n".encode()


# ---- one file for all ---------------------------------------------------------------

Write = Callable[[Plan, Iterable[Image], Path], None]


def _writer(path: Path) -> Write:
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
            f"{str(path)!r}: write to a {', '.join(writers)} file, or to a folder that is there or"
            " ends with a slash"
        )
    if path.suffix == ".tar" and not re.search(r"%0?\d*d", path.name):
        raise IdefiqError(f"{str(path)!r}: shards are numbered: name them like captions-%06d.tar")
    return writers[path.suffix]


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
        {"file_name": _relative(image.key, root), "text": dressed(plan, image.said)}
        for image in images
        if image.said is not None and image.error is None
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
            table = csv.DictWriter(_Text(file), list(names), dialect=dialect)
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
        text, null = pyarrow.string(), pyarrow.null()
        schema = pyarrow.schema([(f.name, text if f.type == null else f.type) for f in schema])
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


# ---- shards -------------------------------------------------------------------------


def _shard_glob(path: Path) -> str:
    """What matches every shard of a pattern."""
    parts = re.split(r"%0?\d*d", path.name)
    return "[0-9]*".join(part.replace("[", "[[]") for part in parts)


def _shards(plan: Plan, images: Iterable[Image], path: Path) -> None:
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
            each.chmod(0o666 & ~_umask())
            each.replace(path.parent / each.name)
        names = {each.name for each in made}
        for old in path.parent.glob(_shard_glob(path)):
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
