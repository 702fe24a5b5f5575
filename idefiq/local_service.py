"""The key of a service that `idefiq up` runs on this machine, found by its own user's programs.

`idefiq up` notes its data folder under its port, where only its user can read it. A client without
a key looks there if its URL is of this machine, and takes the key only while that service runs.
"""

import os
from pathlib import Path
from urllib.parse import urlsplit

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
LOCK, KEY = "lock", "api-key"


def note(port: int, data: Path) -> None:
    """Note where the service of a port has its data. Without a home folder nothing is noted."""
    try:
        _folder().mkdir(parents=True, exist_ok=True, mode=0o700)
        _noted(port).write_text(str(data.resolve()))
    except OSError:
        return


def forget(port: int) -> None:
    """Remove what was noted."""
    try:
        _noted(port).unlink(missing_ok=True)
    except OSError:
        return


def find_key(url: str) -> str | None:
    """Return the key of the service at a URL, if this user runs it with `idefiq up`."""
    try:
        parts = urlsplit(url)
        port = parts.port or 80
        if parts.scheme != "http" or parts.hostname not in _LOOPBACK:
            return None
        data = Path(_noted(port).read_text())
        return (data / KEY).read_text().strip() if _is_locked(data / LOCK) else None
    except (OSError, ValueError, ImportError):
        return None


def _is_locked(path: Path) -> bool:
    """True if a process holds the lock of a data folder: whatever listens now is its service."""
    import fcntl  # not on Windows, where nobody runs the service

    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME")  # noqa: TID251 - where the user keeps such things
    return (Path(state) if state else Path.home() / ".local/state") / "idefiq"


def _noted(port: int) -> Path:
    return _folder() / f"port-{port}"
