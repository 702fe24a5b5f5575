"""Checkpoints: where they are, how they are downloaded, and what their files say.

A folder is used as it is. A name of the hub is downloaded once, at one commit, into the hub's
own cache; from then on a worker does not talk to the hub. Weights are safetensors only: pickled
ones could run code.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import filter_repo_objects
from safetensors import safe_open

from db.vocabulary.errors import RequestError
from workers.settings import EngineSettings

DEMO = Path(__file__).parent.parent / "demo" / "checkpoint"
NOTES = {
    "demo": "Demonstration model: knows drawn scenes of coloured shapes, in English, and nothing"
    " else."
}
#: Models that know the wordings of their training and no others.
OWN_WORDINGS = frozenset({"demo"})
#: Never weights of other formats, nor code.
WANTED = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
#: transformers would silently apply an adapter that lies beside a model.
UNWANTED = ["adapter_*"]
#: Of each, one; a cache that other programs filled may lack some.
NEEDED = (
    ("config.json",),
    ("tokenizer.json", "tokenizer.model", "vocab.json"),
    ("processor_config.json", "preprocessor_config.json"),
)
INDEX = "model.safetensors.index.json"
#: Bytes that are read of the middle of a tensor to know it again.
READ_OF_TENSOR = 4096


def fetch(settings: EngineSettings) -> Path:
    """Return the folder of the checkpoint, downloading it first if needed.

    Raises:
        RequestError: There is none, or it has no safetensors.
    """
    folder = _folder(settings)
    _check_weights(folder, settings)
    return folder


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a checkpoint on the hub, with its size in bytes."""

    name: str
    size: int
    is_cached: bool


def cached(settings: EngineSettings) -> Path | None:
    """Return the folder of a complete local checkpoint; None if it must be downloaded.

    Raises:
        RequestError: The name is neither a folder nor a name of the hub.
    """
    where = _location(settings)
    return Path(where) if Path(where).is_dir() else _from_cache(where, settings)


def listed(settings: EngineSettings) -> list[HubFile]:
    """List the files of a checkpoint on the hub that are needed here.

    Raises:
        RequestError: There is no such checkpoint, or it must not be had.
    """
    name, revision = _location(settings), settings.model_revision or "main"
    with _hub_errors(name, settings):
        commit = HfApi().model_info(name, revision=revision).sha
        found = HfApi().list_repo_tree(name, revision=revision, recursive=True)
        sizes = {file.path: file.size for file in found if isinstance(file, RepoFile)}
    wanted = filter_repo_objects(sizes, allow_patterns=WANTED, ignore_patterns=UNWANTED)
    return [
        HubFile(
            file,
            sizes[file],
            isinstance(try_to_load_from_cache(name, file, revision=commit), str),
        )
        for file in wanted
    ]


def configuration(settings: EngineSettings) -> Path:
    """Download a checkpoint's config.json alone, and return its folder.

    Raises:
        RequestError: There is no such checkpoint, or it must not be had.
    """
    name = _location(settings)
    with _hub_errors(name, settings):
        revision = settings.model_revision or None
        return Path(hf_hub_download(name, "config.json", revision=revision)).parent


def model_type(settings: EngineSettings) -> str:
    """Return the architecture that config.json names.

    Raises:
        RequestError: There is no checkpoint where the settings say.
    """
    try:
        config = json.loads((_folder(settings) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _missing(settings, str(error)) from error
    if not isinstance(config, dict):
        raise _missing(settings, "config.json holds no object")
    return str(config.get("model_type"))


def revision(folder: Path) -> str:
    """Return the commit of a checkpoint of the hub, or ""."""
    # The hub's cache names the folder of a snapshot by its commit.
    return folder.name if folder.parent.name == "snapshots" else ""


def fingerprint(folder: Path) -> str:
    """Digest of a checkpoint: equal for equal checkpoints.

    Of weights, something is read of every tensor: a training changes a tensor everywhere.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in {".json", ".jinja", ".model", ".txt"}:
            digest.update(f"{path.name} ".encode() + path.read_bytes())
        elif path.suffix == ".safetensors":
            with path.open("rb") as file:
                header = file.read(int.from_bytes(file.read(8), "little"))
                begin = file.tell()
                digest.update(f"{path.name} ".encode() + header)
                for name, tensor in sorted(json.loads(header).items()):
                    if name != "__metadata__":
                        first, end = tensor["data_offsets"]
                        file.seek(begin + (first + end) // 2)
                        digest.update(file.read(min(READ_OF_TENSOR, (end - first + 1) // 2)))
    return digest.hexdigest()


def stored_weights(folder: Path) -> int:
    """Count the numbers in a checkpoint's safetensors files, from the files' headers alone.

    Raises:
        SafetensorError: A header cannot be read.
    """
    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 -- no dict
    return count


def license_name(settings: EngineSettings) -> str:
    """The license to show."""
    return settings.model_licence or ("Apache-2.0" if settings.model == "demo" else "unknown")


def note(settings: EngineSettings) -> str:
    """Return a note about a model, or ""."""
    return NOTES.get(settings.model, "")


def _folder(settings: EngineSettings) -> Path:
    where = _location(settings)
    return Path(where) if Path(where).is_dir() else _from_hub(where, settings)


def _location(settings: EngineSettings) -> str:
    if settings.model_path:
        return settings.model_path
    return str(DEMO) if settings.model == "demo" else settings.model


def _missing(settings: EngineSettings, why: str) -> RequestError:
    return RequestError(
        f"model {settings.model!r}: there is no checkpoint at {_location(settings)!r}, or none that"
        f" can be read ({why}); name a folder, or a checkpoint of the hub, with IDEFIQ_MODEL_PATH"
    )


def _from_hub(name: str, settings: EngineSettings) -> Path:
    if here := _from_cache(name, settings):
        return here
    with _hub_errors(name, settings):
        return Path(
            snapshot_download(
                name,
                revision=settings.model_revision or None,
                allow_patterns=WANTED,
                ignore_patterns=UNWANTED,
            )
        )


def _from_cache(name: str, settings: EngineSettings) -> Path | None:
    pinned = settings.model_revision or None
    try:
        here = Path(
            snapshot_download(
                name,
                revision=pinned,
                allow_patterns=WANTED,
                ignore_patterns=UNWANTED,
                local_files_only=True,
            )
        )
        return here if _is_whole(here) else None
    except (LocalEntryNotFoundError, OSError):
        return None
    except HFValidationError as error:
        raise _missing(settings, "neither a folder nor a name of the hub") from error


@contextmanager
def _hub_errors(name: str, settings: EngineSettings) -> Iterator[None]:
    """Turn errors of the hub inside the block into RequestErrors that say what to do."""
    try:
        yield
    except RevisionNotFoundError as error:
        raise RequestError(
            f"model {settings.model!r}: {name!r} has no revision {settings.model_revision!r};"
            " set IDEFIQ_MODEL_REVISION to a commit, branch or tag that it has"
        ) from error
    except GatedRepoError as error:
        raise RequestError(
            f"model {settings.model!r} is gated: accept its terms on its page of the hub, {name!r},"
            " make a token with read access in your account's settings there, and set HF_TOKEN to"
            " it where engines run"
        ) from error
    except RepositoryNotFoundError as error:
        raise _missing(
            settings,
            "the hub has none of this name, or shows it only to those who set HF_TOKEN",
        ) from error
    except (HTTPError, LocalEntryNotFoundError, OSError) as error:
        raise _missing(settings, f"the download failed: {error}") from error


def _is_whole(folder: Path) -> bool:
    """True if a cached snapshot has all needed files and every shard of its weights."""
    if not all(any((folder / name).is_file() for name in names) for names in NEEDED):
        return False
    if (folder / "model.safetensors").is_file():
        return True
    return (folder / INDEX).is_file() and not _missing_shards(folder)


def _missing_shards(folder: Path) -> list[str]:
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return sorted(
        shard for shard in {*index["weight_map"].values()} if not (folder / shard).is_file()
    )


def _check_weights(folder: Path, settings: EngineSettings) -> None:
    if (folder / INDEX).is_file():
        if missing := _missing_shards(folder):
            raise RequestError(
                f"model {settings.model!r}: {len(missing)} shards of its weights are missing from"
                f" {str(folder)!r}, the first is {missing[0]!r}"
            )
    elif (folder / "config.json").is_file() and not any(folder.glob("*.safetensors")):
        raise RequestError(
            f"model {settings.model!r} has no weights as safetensors; pickled ones (.bin, .pt)"
            " could run code and are not loaded: convert them, or choose a revision that has them"
        )
