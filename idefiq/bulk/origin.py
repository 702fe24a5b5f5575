"""The folder that the relative paths of a run start from.

A run's sources, output and text files are named relative to the folder in which it was begun. The
manifest knows that folder relative to itself, so that `idefiq retry`, or the same run, can go on
from anywhere, and a folder can be moved together with its manifest.
"""

import glob
import os
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import replace
from pathlib import Path

from idefiq.bulk import sources
from idefiq.bulk.ask import Plan
from idefiq.bulk.choose_output import choose_output
from idefiq.bulk.manifest import Manifest
from idefiq.bulk.records import REFERENCES
from idefiq.errors import IdefiqError


@contextmanager
def in_folder_of(plan: Plan, manifest: Path | None) -> Iterator[tuple[Plan, Path | None]]:
    """Work in the folder in which the run of a manifest was begun.

    Yields:
        The plan and the manifest as they are named from that folder: as they were, if there is no
        such run yet or its folder is gone.

    Raises:
        IdefiqError: The manifest does not say where, and its run was not begun here.
    """
    here = Path.cwd()
    folder = _begun_in(manifest, plan) if manifest and manifest.exists() else here
    if folder == here or not folder.is_dir():
        yield plan, manifest
        return
    seen = replace(
        plan,
        sources=[_seen_from(folder, here, word) for word in plan.sources],
        out=_seen_from(folder, here, plan.out) if plan.out else plan.out,
    )
    with chdir(folder):
        yield seen, here / manifest if manifest else None


def _begun_in(path: Path, plan: Plan) -> Path:
    manifest = Manifest(path)
    try:
        manifest.run.follow()
        folder = manifest.run.begun_in()
        if folder is not None and not manifest.run.is_named:
            return folder  # the manifest is beside the output that this plan names
        if folder is None and manifest.run.has_plan():  # of version 0.1.0
            earlier = manifest.run.plan()
            _check_place(manifest, earlier, is_same=_is_same(earlier, plan))
        elif folder is not None:
            _check_place(manifest, plan, is_same=folder == manifest.run.begun_at())
        return folder or Path.cwd()
    finally:
        manifest.close()


def _is_same(one: Plan, other: Plan) -> bool:
    return (one.sources, one.out) == (other.sources, other.out)


@contextmanager
def resumed(manifest: Manifest, plan: Plan) -> Iterator[None]:
    """Work in the folder in which an earlier run was begun.

    Raises:
        IdefiqError: It is not known, or its output is not where the manifest says: to write there
            could overwrite somebody else's file.
    """
    assert manifest.path
    folder = manifest.run.begun_in()
    if folder is not None and not folder.is_dir():
        raise IdefiqError(
            f"the run of {str(manifest.path)!r} was begun in {str(folder)!r}, which is not there:"
            " was the manifest moved without its images?"
        )
    path = manifest.path.resolve()
    is_same = manifest.run.is_named and folder == manifest.run.begun_at()
    with chdir(folder or Path.cwd()):
        _check_place(manifest, plan, is_same=is_same, path=path)
        yield


def _check_place(
    manifest: Manifest, plan: Plan, *, is_same: bool, path: Path | None = None
) -> None:
    """Refuse to write where a run of a manifest was not begun.

    Args:
        is_same: It is known to have been begun here, wherever its manifest is.
        path: Of the manifest, if it cannot be named from here as it was.

    Raises:
        IdefiqError: Neither that, nor is the manifest beside the output as it is named from here.
    """
    assert manifest.path
    beside = choose_output(plan).manifest_path() if _has_place(plan) else None
    is_beside = beside is not None and beside.resolve() == (path or manifest.path.resolve())
    if not is_same and not is_beside:
        raise IdefiqError(
            f"{str(manifest.path)!r} is not beside the output of its run,"
            f" {plan.out or 'texts beside images'!r}: nothing is written, as it could be"
            " somebody else's file; repeat the run's own command in the folder where it began"
        )


def _has_place(plan: Plan) -> bool:
    return plan.out is not None or sources.local_folder(plan.sources) is not None


def _seen_from(folder: Path, here: Path, word: str) -> str:
    """Path as named from another folder; references and absolute paths stay."""
    if word.startswith(REFERENCES) or os.path.isabs(word):
        return word
    if glob.has_magic(word) and not (here / word).exists():
        return os.path.join(glob.escape(os.path.relpath(here, folder)), word)
    parts = Path(word).parts
    if ".." in parts[next((n for n, part in enumerate(parts) if part != ".."), 0) :]:
        # Behind a link, the way back up leads elsewhere.
        return os.path.join(os.path.relpath(here, folder), word)
    slash = "/" if word.endswith(("/", os.sep)) else ""
    return os.path.relpath(here / word, folder) + slash
