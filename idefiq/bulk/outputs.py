"""Outputs of a run, chosen by the name of the output.

FILE.jsonl .csv .tsv .parquet    a row each: the source's own columns, answer, error, model
metadata.jsonl metadata.csv      `file_name` and `text`, as Hugging Face's image folders want them
FILE.txt                         name, tab, answer; failures are left out
NAME-%06d.tar                    webdataset shards: image, .txt and .json of each sample
DIR/                             a text file for each image, in the same tree
--sidecar .txt                   the same, beside the images

Files are written aside and renamed, so a reader sees an old one or a new one, whole.
"""

import hashlib
import importlib.util
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from idefiq.bulk import shards
from idefiq.bulk.ask import Plan
from idefiq.bulk.images import Image
from idefiq.bulk.records import Record
from idefiq.bulk.sources import local_folder
from idefiq.bulk.writers import dressed, replacing, writer_of
from idefiq.types import IdefiqError

NEWLINE = "\n"
SIDECARS = (".txt", ".caption")


class Form(Enum):
    """Kind of an output."""

    PRINT = auto()
    FILE = auto()
    SHARDS = auto()
    TREE = auto()
    BESIDE = auto()


@dataclass(frozen=True, slots=True)
class Output:
    """The output of a plan.

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
        """True if there is a text file for each image."""
        return self.form in (Form.TREE, Form.BESIDE)

    def manifest_path(self) -> Path | None:
        """Path beside the output; None for a run that only prints.

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
            raise IdefiqError("name a manifest for the run: --manifest FILE")
        return folder / ".idefiq"

    def is_there(self) -> bool:
        """True if an output of this name exists."""
        if self.form is Form.FILE:
            return self.path.exists()
        if self.form is Form.SHARDS:
            return any(self.path.parent.glob(shards.glob_of(self.path)))
        return False

    def texts(self, record: Record) -> list[Path]:
        """Possible text files of a record; it gets the first that no other image has."""
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

    def misfit(self, record: Record) -> str | None:
        """Say why a record has no place in this output, if so."""
        if self.form is Form.BESIDE and "file" not in record.location:
            return "it is in no file of its own, beside which a text could be: use --out FOLDER/"
        is_metadata = self.form is Form.FILE and self.path.name.startswith("metadata.")
        if is_metadata and not record.location.keys() & {"file", "reference"}:
            return "it is in no file of its own, which metadata could name"
        return None

    def write_text(self, image: Image, note: Callable[[Image, str | None, str], None]) -> None:
        """Bring one image's text file up to date. Safe to repeat.

        Text of others is distinguished from what this run wrote, and is lost only if it is to be
        overwritten.

        Args:
            note: Called before anything is written, with what others wrote and a digest.

        Raises:
            IdefiqError: See text_before.
        """
        if image.text_file is None or image.answer_text is None:
            return
        path, existing = Path(image.text_file), self.plan.existing
        current = self.text_before(path)
        ours = current is not None and _digest(current) in image.digests.split()
        theirs = image.before if ours else current
        if theirs is not None and existing == "skip":
            return
        content = dressed(self.plan, image.answer_text) + "\n"
        if theirs and theirs.strip() and existing == "append":
            content = f"{theirs if theirs.endswith(NEWLINE) else theirs + NEWLINE}{content}"
        elif theirs and theirs.strip() and existing == "prepend":
            content = f"{content}{theirs}"
        if content == current:
            return
        note(image, None if existing == "overwrite" else theirs, _digest(content))
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(content.encode())

    def text_before(self, path: Path) -> str | None:
        """Text that a file holds already; "" for one that is never written back.

        Raises:
            IdefiqError: It cannot be read, or it is to be added to and is not UTF-8: mixed with
                an answer, no program could read it.
        """
        try:
            return path.read_bytes().decode()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise IdefiqError(
                f"its text {path.name} cannot be read and was left as it is: {error.strerror}"
            ) from error
        except UnicodeDecodeError as error:
            if self.plan.existing not in ("append", "prepend"):
                return ""
            raise IdefiqError(
                f"its text {path.name} is not UTF-8 and was left as it is; convert it, for example"
                " with iconv, or use --existing overwrite"
            ) from error

    def write(self, images: Iterable[Image], earlier: Sequence[str]) -> list[str]:
        """Write the output of a run from all finished images.

        Args:
            earlier: Names of the shards that this run has written before.

        Returns:
            Names of the shards that are there now.
        """
        if self.form is Form.SHARDS:
            replaces = self.plan.existing == "overwrite"
            return shards.write(self.plan, images, self.path, earlier, replaces=replaces)
        if self.form is Form.FILE:
            writer_of(self.path)(self.plan, images, self.path)
        return []


def resolve(plan: Plan) -> Output:
    """Find the output of a plan.

    Raises:
        IdefiqError: It cannot be written: its form is unknown, what was said contradicts itself,
            its folder is not there, or a library is not.
    """
    if plan.sidecar and plan.sidecar not in SIDECARS:
        raise IdefiqError(f"{plan.sidecar!r}: a sidecar must be one of {', '.join(SIDECARS)}")
    suffix = plan.sidecar or ".txt"
    if plan.out is None:
        form = Form.BESIDE if plan.sidecar else Form.PRINT
        return Output(form, Path(), suffix, plan)
    if not plan.out.strip():
        raise IdefiqError("--out is empty: is a variable not set?")
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
    if path.suffix == ".tar":
        shards.check_name(path)
    else:
        writer_of(path)
    if not path.parent.is_dir():
        raise IdefiqError(f"{plan.out!r}: no such folder: {str(path.parent)!r}")
    library = {".parquet": "pyarrow", ".tar": "webdataset"}.get(path.suffix)
    if library and importlib.util.find_spec(library) is None:
        raise IdefiqError(f"{plan.out!r} needs {library}: pip install 'idefiq[files]'")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
