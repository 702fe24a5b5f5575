"""Images that are inside other files, as files of their own."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from idefiq.bulk.records import Location
from idefiq.types import IdefiqError


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
