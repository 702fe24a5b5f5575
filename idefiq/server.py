"""Where the server's code is, and how its processes are started.

The packages `api`, `db` and `workers` have names that anybody might use, so an installed wheel
keeps them in a folder of its own, `idefiq/_server`, that is on no import path. Only processes that
are started here find them, through PYTHONPATH; in a checkout they are found beside `idefiq`.
"""

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from idefiq.errors import IdefiqError

_HERE = Path(__file__).resolve().parent
#: Libraries that a program, or a word of its command, cannot do without; all are in the extra
#: `server`.
_NEEDED = {
    "api": ("sqlalchemy", "celery", "fastapi", "uvicorn"),
    "workers": ("sqlalchemy", "celery", "PIL"),
    "engine": ("torch", "transformers", "huggingface_hub"),
    "pull": ("torch", "transformers", "huggingface_hub"),
    "operator": ("sqlalchemy", "redis"),
}


def folder() -> Path:
    """Return the folder that holds `api`, `db` and `workers`.

    Raises:
        IdefiqError: They are not here.
    """
    for found in (_HERE / "_server", _HERE.parent):
        if all((found / name / "__init__.py").is_file() for name in ("api", "db", "workers")):
            return found
    raise IdefiqError("the server is not installed: pip install 'idefiq[server]'")


def check_installed(*programs: str) -> None:
    """Raise early if libraries of the server are missing.

    Raises:
        IdefiqError: Some are.
    """
    folder()
    needed = dict.fromkeys(name for one in programs for name in _NEEDED.get(one, ()))
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise IdefiqError(
            f"the server's libraries are not installed ({', '.join(missing)}):"
            " pip install 'idefiq[server]'"
        )


def command(*words: str) -> list[str]:
    """Build the command of a server's process: a module of its packages, and arguments.

    `-P` keeps the current folder off the path, in which there may be another `api`.
    """
    return [sys.executable, "-P", "-m", *words]


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """Build the environment of a server's process."""
    path = [str(folder()), *filter(None, [env.get("PYTHONPATH")])]
    return {**env, "PYTHONPATH": os.pathsep.join(path)}


def become(*words: str) -> NoReturn:
    """Replace this process by one of the server.

    Raises:
        IdefiqError: It is not installed.
    """
    module = words[0].split(".")
    check_installed(*(module[1:] or module), *words[1:2])
    sys.stdout.flush()
    env = environment(os.environ)  # noqa: TID251 - handed on to the process
    os.execve(sys.executable, command(*words), env)  # noqa: S606 - it is this same interpreter
