"""Text files, one for each image: in a tree of their own, or beside the images.

What others have written into such a file is told from what a run wrote, and is only overwritten
if that was asked for.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from idefiq.bulk.formats import dressed, replacing
from idefiq.bulk.images import Image
from idefiq.bulk.outputs import Output
from idefiq.bulk.records import Record
from idefiq.bulk.sources import local_folder
from idefiq.errors import IdefiqError

NEWLINE = "\n"


@dataclass(frozen=True, slots=True)
class TextFiles(Output):
    """Text files beside their images.

    Attributes:
        suffix: Of the text files.
    """

    suffix: str = ".txt"

    writes_texts = True

    @property
    def where(self) -> str | None:
        """See Output.where."""
        return self.plan.out or f"{self.suffix} files beside the images"

    def manifest_path(self) -> Path | None:
        """See Output.manifest_path.

        Raises:
            IdefiqError: The sources are in no folder.
        """
        folder = local_folder(self.plan.sources)
        if folder is None:
            raise IdefiqError("name a manifest for the run: --manifest FILE")
        return folder / ".idefiq"

    def texts(self, record: Record) -> Sequence[Path]:
        """See Output.texts."""
        if "file" not in record.location:
            return []
        image = Path(record.location["file"])
        return [image.with_suffix(self.suffix), Path(f"{image}{self.suffix}")]

    def misfit(self, record: Record) -> str | None:
        """See Output.misfit."""
        if "file" in record.location:
            return None
        return "it is in no file of its own, beside which a text could be: use --out FOLDER/"

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


@dataclass(frozen=True, slots=True)
class TextTree(TextFiles):
    """Text files in a tree like that of the images.

    Attributes:
        folder: Its root.
    """

    folder: Path = Path()

    def manifest_path(self) -> Path | None:
        """See Output.manifest_path."""
        return self.folder / ".idefiq"

    def texts(self, record: Record) -> Sequence[Path]:
        """See Output.texts."""
        place = self.folder / record.place
        named = [place.with_suffix(self.suffix), Path(f"{place}{self.suffix}")]
        return [*named, *(Path(f"{place}-{n}{self.suffix}") for n in range(2, 1_000))]

    def misfit(self, record: Record) -> str | None:
        """See Output.misfit."""
        return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
