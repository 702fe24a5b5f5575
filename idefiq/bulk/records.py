"""One image to ask about, from any source."""

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

REFERENCES = ("http://", "https://", "s3://", "blob:", "data:")

#: Where an image is: {"file"} | {"reference"} | {"tar", "offset", "size"} | {"parquet", "row", …}
Location = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """One image to ask about.

    Attributes:
        key: Its name, its own among all records of a run.
        location: Where it is.
        columns: Other columns of the source.
        stamp: Changes when what is there does.
        error: Why it cannot be read, if so.
        place: A path for it in a tree of its own, without steps up.
        source: The source in which it was found.
    """

    key: str
    location: Location
    columns: dict[str, Any] = field(default_factory=dict)
    stamp: str = ""
    error: str | None = None
    place: str = "unnamed"
    source: str = ""


def safe(name: str) -> str:
    """Turn a name or reference into a relative path without `..`."""
    if name.startswith(("data:", "blob:")):
        return "unnamed"
    plain = name.partition("://")[2].partition("?")[0].partition("/")[2] if "://" in name else name
    parts = [part for part in PurePosixPath(plain).parts if part not in ("..", ".", "/")]
    return "/".join(part.replace("\\", "_").replace("\0", "_") for part in parts) or "unnamed"


def stamp_of(path: Path) -> str:
    """A value that changes with a file."""
    status = path.stat()
    return f"{status.st_size}:{status.st_mtime_ns}"


def as_text(path: object) -> str:
    """Turn a path into text that can be stored and sent, whatever bytes it has."""
    return str(path).encode(errors="replace").decode()
