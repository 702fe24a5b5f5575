"""Images inside other files, as files of their own."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from idefiq.bulk.records import Location
from idefiq.errors import IdefiqError


class Reader:
    """Extracts images inside other files into files of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        #: A row group that was read: its file and column, its first row, its values.
        self._group: tuple[tuple[str, str], int, list[Any]] = (("", ""), 0, [])
        self._made = 0

    @contextlib.contextmanager
    def file(self, location: Location) -> Iterator[Path]:
        """Yield the image as a file for the block."""
        path = self.path(location)
        yield path
        if path.parent == self._folder:
            path.unlink()

    def path(self, location: Location) -> Path:
        """Return the image as a file.

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
                raise IdefiqError("the row has no image")
            return self._kept(data)
        raise IdefiqError("the row has no image")

    def _kept(self, data: bytes) -> Path:
        self._made += 1
        path = self._folder / str(self._made)
        path.write_bytes(data)
        return path

    def _cell(self, location: Location) -> bytes | None:
        where, first, values = self._group
        named = (location["parquet"], location["column"])
        if where != named or not first <= location["row"] < first + len(values):
            first, values = self._read_group(*named, location["row"])
            self._group = (named, first, values)
        value = values[location["row"] - first]
        if isinstance(value, list):  # the first of several
            value = value[0] if value else None
        value = value.get("bytes") if isinstance(value, dict) else value
        return value if isinstance(value, bytes) else None

    @staticmethod
    def _read_group(path: str, column: str, row: int) -> tuple[int, list[Any]]:
        """Return the row group that holds a row: its first row, and its values."""
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(path) as file:
            first, group = 0, 0
            while row >= first + (count := file.metadata.row_group(group).num_rows):
                first, group = first + count, group + 1
            table = file.read_row_group(group, columns=[column])
        return first, table.column(0).to_pylist()
