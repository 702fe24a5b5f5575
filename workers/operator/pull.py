"""`idefiq models pull NAME`: downloads a checkpoint of the hub before an engine needs it.

Looks first: is there room on the disk, and in the device's memory? What is here already is not
downloaded again, and a download that was cut goes on where it stopped.
"""

import argparse
import shutil
import sys
from pathlib import Path

from huggingface_hub import constants

from db.settings import CONFIG_STATUS, UNREADABLE, explain
from db.vocabulary.errors import RequestError
from workers.families import checkpoints
from workers.operator import GIB, gib
from workers.settings import EngineSettings

#: Free space that is left on the disk.
SPARE_BYTES = GIB


def pull(settings: EngineSettings, cache: Path) -> Path:
    """Download the checkpoint of the settings, or find it in the cache. Returns its folder.

    Raises:
        RequestError: There is none of this name, it must not be had, or there is no room.
    """
    if settings.model == "echo":
        raise RequestError("model 'echo' is built in: there is nothing to download")
    if folder := checkpoints.cached(settings):
        print(f"{settings.model} is here already: {folder}")
        return folder
    files = checkpoints.listed(settings)
    missing = sum(file.size for file in files if not file.is_cached)
    total = sum(file.size for file in files)
    print(f"{settings.model}: {len(files)} files, {gib(total)}; {gib(missing)} to download")
    _check_disk(settings.model, missing, cache)
    if warning := _memory(settings):
        print(f"warning: {warning}", file=sys.stderr)
    folder = checkpoints.fetch(settings)
    print(f"{settings.model} is here: {folder}")
    return folder


def _check_disk(name: str, missing: int, cache: Path) -> None:
    there = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if missing + SPARE_BYTES > free:
        raise RequestError(
            f"model {name!r}: {gib(missing)} are to be downloaded to {str(cache)!r}, where"
            f" {gib(free)} are free; set HF_HOME to a folder on a larger disk"
        )


def _memory(settings: EngineSettings) -> str:
    """Return a warning, before the download, if the weights would not fit the device."""
    folder = checkpoints.configuration(settings)
    from workers.operator import fit  # seconds of imports that a refused download does without

    needed = fit.weights_bytes(folder, settings)
    return fit.advice(needed, settings) if needed else ""


def main() -> int:
    """Parse arguments, pull, and print errors as one line."""
    parser = argparse.ArgumentParser(prog="idefiq models pull", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--revision", default="")
    arguments = parser.parse_args()
    try:
        settings = EngineSettings(
            model=arguments.name, model_path="", model_revision=arguments.revision
        )
        pull(settings, Path(constants.HF_HUB_CACHE))
    except UNREADABLE as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return CONFIG_STATUS
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
