"""The folder that the relative paths of a run start from.

A run's sources, output and text files are named relative to the folder in which it was begun. The
manifest knows that folder relative to itself, so that `idefiq retry`, or the same run, can go on
from anywhere, and a folder can be moved together with its manifest.
"""

import os
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import replace
from pathlib import Path

from idefiq.bulk import outputs, sources
from idefiq.bulk.ask import Plan
from idefiq.bulk.manifest import Manifest
from idefiq.bulk.records import REFERENCES
from idefiq.types import IdefiqError


@contextmanager
def in_folder_of(plan: Plan, manifest: Path | None) -> Iterator[tuple[Plan, Path | None]]:
    """Work in the folder in which the run of a manifest was begun.

    Yields:
        The plan and the manifest as they are named from that folder: as they were, if there is no
        such run yet or its folder is gone.
    """
    folder = _begun_in(manifest) if manifest and manifest.exists() else None
    here = Path.cwd()
    if folder is None or folder == here or not folder.is_dir():
        yield plan, manifest
        return
    seen = replace(
        plan,
        sources=[_seen_from(folder, here, word) for word in plan.sources],
        out=_seen_from(folder, here, plan.out) if plan.out else plan.out,
    )
    with chdir(folder):
        yield seen, here / manifest if manifest else None


@contextmanager
def resumed(manifest: Manifest, plan: Plan) -> Iterator[None]:
    """Work in the folder in which an earlier run was begun.

    Raises:
        IdefiqError: It is not known, or its output is not where the manifest says: to write there
            could overwrite somebody else's file.
    """
    assert manifest.path
    folder = manifest.begun_in()
    where = manifest.path.resolve()
    if folder is not None and not folder.is_dir():
        raise IdefiqError(
            f"the run of {str(manifest.path)!r} was begun in {str(folder)!r}, which is not there:"
            " was the manifest moved without its images?"
        )
    with chdir(folder or Path.cwd()):
        beside = outputs.resolve(plan).manifest_path() if _has_place(plan) else None
        known = beside is not None and beside.resolve() == where
        if not known and (folder is None or not manifest.is_named):
            raise IdefiqError(
                f"{str(manifest.path)!r} is not beside the output of its run,"
                f" {plan.out or 'texts beside images'!r}: nothing is written, as it could be"
                " somebody else's file; repeat the run's own command in the folder where it began"
            )
        yield


def _has_place(plan: Plan) -> bool:
    return plan.out is not None or sources.local_folder(plan.sources) is not None


def _begun_in(path: Path) -> Path | None:
    manifest = Manifest(path)
    try:
        return manifest.begun_in()
    finally:
        manifest.close()


def _seen_from(folder: Path, here: Path, word: str) -> str:
    """A path as it is named from another folder; references and absolute paths stay."""
    if word.startswith(REFERENCES) or os.path.isabs(word):
        return word
    slash = "/" if word.endswith(("/", os.sep)) else ""
    return os.path.relpath(here / word, folder) + slash
