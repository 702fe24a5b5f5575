"""Chooses the output of a plan by its name."""

import importlib.util
import os
from pathlib import Path

from idefiq.bulk import shards
from idefiq.bulk.ask import Plan
from idefiq.bulk.formats import format_of
from idefiq.bulk.outputs import OneFile, Output, Shards
from idefiq.bulk.text_files import TextFiles, TextTree
from idefiq.errors import IdefiqError

SIDECARS = (".txt", ".caption")


def choose_output(plan: Plan) -> Output:
    """Find the output of a plan.

    Raises:
        IdefiqError: It cannot be written: its form is unknown, what was said contradicts itself,
            its folder is not there, or a library is not.
    """
    if plan.sidecar and plan.sidecar not in SIDECARS:
        raise IdefiqError(f"{plan.sidecar!r}: a sidecar must be one of {', '.join(SIDECARS)}")
    suffix = plan.sidecar or ".txt"
    if plan.out is None:
        return TextFiles(plan, suffix) if plan.sidecar else Output(plan)
    if not plan.out.strip():
        raise IdefiqError("--out is empty: is a variable not set?")
    path = Path(plan.out)
    if plan.out.endswith(("/", os.sep)) or path.is_dir():
        return TextTree(plan, suffix, path)
    return _named(plan, path)


def _named(plan: Plan, path: Path) -> OneFile | Shards:
    """Return a file or shards, which can be written here."""
    if plan.sidecar:
        raise IdefiqError(f"{plan.out!r} is one file: --sidecar is for texts, in a FOLDER/ or none")
    if plan.existing in ("append", "prepend"):
        raise IdefiqError(f"{plan.out!r}: --existing {plan.existing} is for texts beside images")
    found: OneFile | Shards
    library: str | None
    if path.suffix == ".tar":
        shards.check_name(path)
        found, library = Shards(plan, path), "webdataset"
    else:
        form = format_of(path)
        found, library = OneFile(plan, path, form), form.library
    if not path.parent.is_dir():
        raise IdefiqError(f"{plan.out!r}: no such folder: {str(path.parent)!r}")
    if library and importlib.util.find_spec(library) is None:
        raise IdefiqError(f"{plan.out!r} needs {library}: pip install 'idefiq[files]'")
    return found
