"""Outputs of a run, chosen by the name of the output; see choose_output.py.

FILE.jsonl .csv .tsv .parquet    a row each: the source's own columns, answer, error, model
metadata.jsonl metadata.csv      `file_name` and `text`, as Hugging Face's image folders want them
FILE.txt                         name, tab, answer; failures are left out
NAME-%06d.tar                    webdataset shards: image, .txt and .json of each sample
DIR/                             a text file for each image, in the same tree
--sidecar .txt                   the same, beside the images

Files are written aside and renamed, so a reader sees an old one or a new one, whole.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from idefiq.bulk import shards
from idefiq.bulk.ask import Plan
from idefiq.bulk.formats import FileFormat
from idefiq.bulk.images import Image
from idefiq.bulk.records import Record


@dataclass(frozen=True, slots=True)
class Output:
    """The output of a plan; by itself, one that only prints."""

    plan: Plan

    #: True if there is a text file for each image.
    writes_texts: ClassVar[bool] = False

    @property
    def where(self) -> str | None:
        """Where answers are written, for people; None if they are printed."""
        return self.plan.out

    def manifest_path(self) -> Path | None:
        """Path of the manifest, beside the output; None for a run that only prints."""
        return None

    def is_there(self) -> bool:
        """True if an output of this name exists."""
        return False

    def texts(self, record: Record) -> Sequence[Path]:
        """Possible text files of a record; it gets the first that no other image has."""
        return []

    def misfit(self, record: Record) -> str | None:
        """Say why a record has no place in this output, if so."""
        return None

    def text_before(self, path: Path) -> str | None:
        """Text that a file holds already; "" for one that is never written back."""
        return None

    def write_text(self, image: Image, note: Callable[[Image, str | None, str], None]) -> None:
        """Bring one image's text file up to date; see text_files.py."""

    def write(self, images: Iterable[Image], earlier: Sequence[str]) -> list[str]:
        """Write the output of a run from all finished images.

        Args:
            earlier: Names of the shards that this run has written before.

        Returns:
            Names of the shards that are there now.
        """
        return []


@dataclass(frozen=True, slots=True)
class OneFile(Output):
    """One file for all images."""

    path: Path
    format: FileFormat

    def manifest_path(self) -> Path | None:
        """See Output.manifest_path."""
        return Path(f"{self.path}.idefiq")

    def is_there(self) -> bool:
        """See Output.is_there."""
        return self.path.exists()

    def misfit(self, record: Record) -> str | None:
        """See Output.misfit."""
        if self.format.names_files and not record.location.keys() & {"file", "reference"}:
            return "it is in no file of its own, which metadata could name"
        return None

    def write(self, images: Iterable[Image], earlier: Sequence[str]) -> list[str]:
        """See Output.write."""
        self.format.write(self.plan, images, self.path)
        return []


@dataclass(frozen=True, slots=True)
class Shards(Output):
    """Numbered shards; `pattern` is their path with a place for the number."""

    pattern: Path

    def manifest_path(self) -> Path | None:
        """See Output.manifest_path."""
        return Path(f"{self.pattern}.idefiq")

    def is_there(self) -> bool:
        """See Output.is_there."""
        return any(self.pattern.parent.glob(shards.glob_of(self.pattern)))

    def write(self, images: Iterable[Image], earlier: Sequence[str]) -> list[str]:
        """See Output.write."""
        replaces = self.plan.existing == "overwrite"
        return shards.write(self.plan, images, self.pattern, earlier, replaces=replaces)
