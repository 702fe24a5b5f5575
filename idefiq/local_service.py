"""The key of a service that `idefiq up` runs on this machine, found by its own user's programs.

`idefiq up` notes its data folder under its port, where only its user can read it, and holds a lock
on a file there that names its address. A client without a key takes it only while that lock is held
and only for exactly this address: whatever else listens on a port of that number gets nothing.
"""

import functools
import os
import time
from ipaddress import ip_address
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from idefiq.errors import IdefiqError

LOCK, KEY = "lock", "api-key"
#: A client that looks whether a folder is in use holds the lock for a moment.
LOCK_ATTEMPTS, LOCK_SECONDS = 5, 0.1


def lock(data: Path) -> IO[str]:
    """Lock a data folder for a service; closing the file unlocks it.

    Raises:
        IdefiqError: Another service uses it.
    """
    import fcntl

    private = functools.partial(os.open, mode=0o600)
    file = open(data / LOCK, "a", opener=private)  # noqa: SIM115 - it is held while the service runs
    for left in reversed(range(LOCK_ATTEMPTS)):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError as error:
            if not left:
                file.close()
                raise IdefiqError(
                    f"another `idefiq up` uses {str(data)!r}; choose another folder with --data"
                ) from error
        time.sleep(LOCK_SECONDS)
    raise AssertionError("the last attempt returns or raises")


def note(locked: IO[str], host: str, port: int, data: Path) -> None:
    """Note where the service of a port has its data. Without a home folder nothing is noted.

    Args:
        locked: The lock of the folder, into which the address is written.
    """
    locked.truncate(0)
    locked.write(address(host, port))
    locked.flush()
    try:
        _folder().mkdir(parents=True, exist_ok=True, mode=0o700)
        _noted(port).write_text(str(data.resolve()))
    except (OSError, RuntimeError):
        return


def forget(port: int) -> None:
    """Remove what was noted."""
    try:
        _noted(port).unlink(missing_ok=True)
    except (OSError, RuntimeError):
        return


def find_key(url: str) -> str | None:
    """Return the key of the service at a URL, if this user runs it with `idefiq up`."""
    try:
        if not is_loopback(url):
            return None
        parts = urlsplit(url)
        data = Path(_noted(parts.port or 80).read_text())
        is_its = _locked_for(data / LOCK) == address(str(parts.hostname), parts.port or 80)
        return (data / KEY).read_text().strip() if is_its else None
    except (OSError, ValueError, ImportError, RuntimeError):  # the last: there is no home folder
        return None


def is_loopback(url: str) -> bool:
    """True for a plain URL of this machine, which no proxy should see."""
    parts = urlsplit(url)
    try:
        is_this = ip_address(str(parts.hostname)).is_loopback
    except ValueError:
        is_this = parts.hostname == "localhost"
    return parts.scheme == "http" and is_this


def address(host: str, port: int) -> str:
    """What the lock says of where its service listens."""
    return f"{host} {port}"


def _locked_for(path: Path) -> str | None:
    """Return the address in the lock of a data folder, if a process holds it."""
    import fcntl  # not on Windows, where nobody runs the service

    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read()
        return None


def _folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME")  # noqa: TID251 - where the user keeps such things
    return (Path(state) if state else Path.home() / ".local/state") / "idefiq"


def _noted(port: int) -> Path:
    return _folder() / f"port-{port}"
