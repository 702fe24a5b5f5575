"""The manifest of a run: its images, what was submitted, and the answers.

A SQLite file beside the output. Every step is written down before it is taken, so a run that is
stopped anywhere goes on where it was, and the service is asked for nothing twice:

    new ─assign─▶ in a chunk, with its item ─submit (under the chunk's key)─▶ job
                                              └─ results, page by page ─▶ done | failed
"""

from pathlib import Path

from idefiq.bulk.manifest_chunks import ChunkTable
from idefiq.bulk.manifest_file import ManifestFile
from idefiq.bulk.manifest_images import ImageTable
from idefiq.bulk.manifest_run import RunFacts


class Manifest:
    """Opens or creates the file of a run.

    Attributes:
        path: The file; None in memory.
        run: The run's plan, and where it was begun.
        images: The images that it has found.
        chunks: What was submitted.

    Raises:
        IdefiqError: It is no manifest, cannot be written, or another run has it open.
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self._file = path, ManifestFile(path)
        self.run, self.images = RunFacts(self._file), ImageTable(self._file)
        self.chunks = ChunkTable(self._file, self.images)

    @classmethod
    def copy(cls, path: Path | None) -> "Manifest":
        """Return a manifest in memory with the contents of a file, if there is one."""
        made = cls(None)
        if path and path.exists():
            source = cls(path)
            source._file.db.backup(made._file.db)
            source.close()
        return made

    def close(self) -> None:
        """Close the file."""
        self._file.db.close()
