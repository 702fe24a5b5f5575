"""`idefiq doctor`: checks of the installation, with what to do about each problem.

versions, devices, memory, database, Redis, store, model, service ─▶ ok, warning or wrong
"""

import argparse
import importlib.metadata
import io
import json
import os
import platform
import re
import secrets
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil
import redis
import redis.exceptions

from db.blobs.opening import open_store
from db.settings import CONFIG_STATUS, UNREADABLE, StorageSettings, explain
from db.sql import schema
from db.sql.database import Database
from db.vocabulary.errors import IdefiqError, RequestError
from workers.notices import plain_url
from workers.operator import gib
from workers.settings import EngineSettings

LIBRARIES = (
    *("torch", "transformers", "accelerate", "bitsandbytes", "huggingface-hub", "pillow"),
    *("celery", "redis", "sqlalchemy", "psycopg", "boto3", "fastapi"),
)
#: Exact versions that the tests ran with; beside the server's packages.
TESTED = Path(__file__).parents[2] / "constraints.txt"
#: Free memory and disk below these are worth a word.
MIN_MEMORY_BYTES, MIN_DISK_BYTES = 4 * 2**30, 5 * 2**30

DiagnosisState = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Result of one check, and what to do about it."""

    name: str
    state: DiagnosisState
    text: str
    remedy: str = ""


def versions() -> Iterator[Diagnosis]:
    """Check versions of idefiq, Python and libraries; mark those that were not tested."""
    yield Diagnosis("idefiq", "ok", importlib.metadata.version("idefiq"))
    yield Diagnosis("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    tested = dict(re.findall(r"^([\w.-]+)==(\S+)$", _read(TESTED), re.MULTILINE))
    tested = {name.lower().replace("_", "-"): version for name, version in tested.items()}
    for name in LIBRARIES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Diagnosis(name, "warning", "not installed", "pip install 'idefiq[server]'")
            continue
        wanted = tested.get(name)
        same = wanted is None or version.partition("+")[0] == wanted
        yield Diagnosis(name, "ok", version if same else f"{version} (tested with {wanted})")


def devices() -> Iterator[Diagnosis]:
    """List GPUs that torch can use, or say why it can use none."""
    try:
        import torch
    except ImportError:
        yield Diagnosis("gpu", "warning", "torch is not installed", "pip install 'idefiq[server]'")
        return
    from workers.operator.devices import gpus

    here = gpus()
    for gpu in here:
        free, total = gpu.free_bytes / 2**30, gpu.total_bytes / 2**30
        yield Diagnosis(
            f"cuda:{gpu.index}", "ok", f"{gpu.name}, {free:.1f} of {total:.1f} GiB free"
        )
        if gpu.free_bytes < gpu.total_bytes / 2:
            yield Diagnosis(f"cuda:{gpu.index}", "warning", "another program uses it", "nvidia-smi")
    if here:
        return
    if torch.version.cuda is None:
        why = "this torch was built without CUDA"
        remedy = "for a GPU, install torch as pytorch.org says for your CUDA"
    elif shutil.which("nvidia-smi"):
        why, remedy = "torch cannot use the driver", f"a driver for CUDA {torch.version.cuda}"
    else:
        why, remedy = "no NVIDIA driver was found", "fine for the demonstration model"
    yield Diagnosis("gpu", "ok", f"none: {why}", remedy)


def memory(record: StorageSettings) -> Iterator[Diagnosis]:
    """Check main memory, and the disk of the folder store."""
    room = psutil.virtual_memory()
    text = f"{room.available / 2**30:.1f} of {room.total / 2**30:.1f} GiB available"
    short = room.available < MIN_MEMORY_BYTES
    yield Diagnosis("memory", "warning" if short else "ok", text, "close programs" if short else "")
    if record.store == "folder":
        folder = Path(record.store_folder).absolute()
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free
        short = free < MIN_DISK_BYTES
        remedy = "free some, or set IDEFIQ_STORE_FOLDER to a larger disk" if short else ""
        state: DiagnosisState = "warning" if short else "ok"
        yield Diagnosis("disk", state, f"{free / 2**30:.1f} GiB free at {there}", remedy)


def database(record: StorageSettings) -> Iterator[Diagnosis]:
    """Check that the database is reachable and has this version's schema."""
    file = record.database_url.removeprefix("sqlite:///")
    if file != record.database_url and not Path(file).exists():
        text = f"{record.database_url} is not there yet"
        yield Diagnosis("database", "warning", text, "`idefiq up` or `idefiq migrate` makes it")
        return
    made = Database(record.database_url, pool=1)
    shown = made.engine.url.render_as_string(hide_password=True)
    try:
        with made.snapshot() as transaction:
            current = schema.is_current(transaction)
    except IdefiqError as error:
        yield Diagnosis("database", "wrong", f"{shown}: {error}", "see IDEFIQ_DATABASE_URL")
        return
    finally:
        made.dispose()
    if current:
        yield Diagnosis("database", "ok", shown)
    else:
        yield Diagnosis("database", "wrong", f"{shown} has another schema", "idefiq migrate")


def wakes(settings: EngineSettings) -> Iterator[Diagnosis]:
    """Check that Redis is reachable and accepts writes; without it everything is only slower."""
    shown = re.sub(r"//[^/?]*@", "//…@", settings.redis_url)
    polls = "workers poll meanwhile: latency, no loss; see IDEFIQ_REDIS_URL"
    try:
        with redis.Redis.from_url(
            plain_url(settings.redis_url), socket_connect_timeout=2, socket_timeout=5
        ) as client:
            client.set("idefiq:doctor", "x", px=1_000)
            version = client.info("server")["redis_version"]
            # CONFIG is not for everybody where Redis is rented, and this says the same.
            policy = client.info("memory").get("maxmemory_policy", "noeviction")
    except (redis.exceptions.RedisError, OSError) as error:
        yield Diagnosis("redis server", "warning", f"{shown}: {error}", polls)
        return
    yield Diagnosis("redis server", "ok", f"{shown}, version {version}")
    if policy != "noeviction":
        text = f"maxmemory-policy is {policy}: wakes may be dropped"
        yield Diagnosis("redis server", "warning", text, "set it to noeviction")


def store(record: StorageSettings) -> Iterator[Diagnosis]:
    """Check that the blob store stores a blob and returns it."""
    where = record.store_folder if record.store == "folder" else f"s3://{record.s3_bucket}"
    key = f"doctor/{secrets.token_hex(8)}"
    if record.store == "folder" and not Path(record.store_folder).exists():
        yield Diagnosis("store", "warning", f"{where} is not there yet", "`idefiq up` makes it")
        return
    try:
        made = open_store(record)
        made.put(key, io.BytesIO(b"x"))
        same = made.get(key) == b"x"
        made.delete(key)
    except (IdefiqError, OSError) as error:
        remedy = "see IDEFIQ_STORE; `idefiq migrate` makes a bucket that is not there"
        yield Diagnosis("store", "wrong", f"{where}: {error}", remedy)
        return
    yield Diagnosis("store", "ok" if same else "wrong", str(where))


def model(settings: EngineSettings) -> Iterator[Diagnosis]:
    """Check that the checkpoint is complete and fits the device."""
    if settings.model == "echo":
        yield Diagnosis("model", "ok", "echo, which is no model")
        return
    try:
        from workers.families import checkpoints
        from workers.operator import fit

        folder = checkpoints.cached(settings)
    except (ImportError, RequestError) as error:
        yield Diagnosis("model", "wrong", str(error), "set IDEFIQ_MODEL")
        return
    if folder is None:
        token = "set" if os.environ.get("HF_TOKEN") else "not set"  # noqa: TID251 - a fact
        text = f"{settings.model} is not on this machine (HF_TOKEN is {token})"
        yield Diagnosis("model", "warning", text, f"idefiq models pull {settings.model}")
        return
    needed = fit.weights_bytes(folder, settings)
    size = f", weights of {gib(needed)} on {settings.device}" if needed else ""
    if needed and (advice := fit.advice(needed, settings)):
        yield Diagnosis(
            "model", "wrong", advice, "see IDEFIQ_DTYPE, IDEFIQ_QUANTIZE, IDEFIQ_DEVICE"
        )
    else:
        yield Diagnosis("model", "ok", f"{settings.model}{size}")


def service(url: str) -> Iterator[Diagnosis]:
    """Check that the API answers, and what it reports about its workers."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:  # noqa: S310 - its form was checked
            body = json.load(answer)
    except urllib.error.HTTPError as error:
        body = json.loads(error.read() or b"{}")
        text = f"{url} answers {error.code}: {body}"
        yield Diagnosis(
            "service", "warning", text, "a model takes a while to load; else see its log"
        )
        return
    except (OSError, ValueError) as error:
        yield Diagnosis("service", "warning", f"{url}: {error}", "`idefiq up` starts it")
        return
    text = f"{url} is ready: {body['engines']} engines, {body['intakes']} intake workers"
    yield Diagnosis("service", "ok", text)


def examine(url: str, *, private_redis: bool) -> Iterator[Diagnosis]:
    """Run all checks, in the order of their dependencies. A check that fails is a result too.

    Args:
        private_redis: True if Redis is that of `idefiq up`, which no other host reaches.
    """
    record, settings = StorageSettings(), EngineSettings()
    looks: list[tuple[str, Callable[[], Iterator[Diagnosis]]]] = [
        ("versions", versions),
        ("devices", devices),
        ("memory", lambda: memory(record)),
        ("database", lambda: database(record)),
        ("redis server", lambda: _private() if private_redis else wakes(settings)),
        ("store", lambda: store(record)),
        ("model", lambda: model(settings)),
        ("service", lambda: service(url)),
    ]
    for name, look in looks:
        try:
            yield from look()
        except Exception as error:  # the next look may say why
            yield Diagnosis(name, "wrong", f"{type(error).__name__}: {error}")


def _private() -> Iterator[Diagnosis]:
    yield Diagnosis("redis server", "ok", "private to `idefiq up`")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _line(finding: Diagnosis) -> str:
    mark = {"ok": "ok     ", "warning": "warning", "wrong": "WRONG  "}[finding.state]
    remedy = f"\n{'':26}→ {finding.remedy}" if finding.remedy else ""
    return f"{mark}  {finding.name:16} {finding.text}{remedy}"


def main() -> int:
    """Print a line for each check; return 1 if something is wrong."""
    parser = argparse.ArgumentParser(prog="idefiq doctor", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.data:  # as `idefiq up --data` sets them
        data = arguments.data.absolute()
        os.environ.setdefault("IDEFIQ_DATABASE_URL", f"sqlite:///{data}/idefiq.db")  # noqa: TID251
        os.environ.setdefault("IDEFIQ_STORE_FOLDER", f"{data}/blobs")  # noqa: TID251
    states = set()
    try:
        own = arguments.data is not None and "IDEFIQ_REDIS_URL" not in os.environ  # noqa: TID251
        for finding in examine(arguments.url, private_redis=own):
            states.add(finding.state)
            print(json.dumps(asdict(finding)) if arguments.json else _line(finding), flush=True)
    except UNREADABLE as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return CONFIG_STATUS
    return 1 if "wrong" in states else 0


if __name__ == "__main__":
    sys.exit(main())
