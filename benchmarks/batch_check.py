"""`make bench-batch`: the check of a batch's input file, against the least that it has to do.

    check    upkeep checks a file of LINES chats, each with an image of 20 KB in it, stores the
             images and starts the batch; on SQLite and a folder
    floor    reads the same file, parses and decodes each line, hashes its image, and writes the
             bytes of all images into one file that is made durable

One process each, in turn. Peak memory is that of the process, beside that of a tenth of the lines.
"""

import argparse
import base64
import hashlib
import json
import multiprocessing
import os
import resource
import secrets
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from benchmarks.figures import spread
from db import owners
from db.blobs.folder import FolderStore
from db.blobs.store import file_key
from db.openai import batches, files
from db.openai.batch import NewBatch
from db.openai.files import NewFile
from db.queue import sessions
from db.settings import SubmissionSettings
from db.sql.database import Database
from db.sql.schema import migrate
from db.vocabulary.limits import OwnerLimits
from tests.served import CARD
from workers.upkeep.batch_checks import BatchChecks

IMAGE_BYTES = 20_000
ENDPOINT = "/v1/chat/completions"


def write_input(path: Path, count: int) -> None:
    """Write an input file: every line with its own image, whose bytes nobody looks at."""
    with path.open("wb") as file:
        for number in range(count):
            data = base64.b64encode(secrets.token_bytes(IMAGE_BYTES)).decode()
            image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
            content = [{"type": "text", "text": "Describe the image."}, image]
            body = {"model": CARD.name, "messages": [{"role": "user", "content": content}]}
            line = {"custom_id": f"photo {number}", "method": "POST", "url": ENDPOINT}
            file.write(orjson.dumps({**line, "body": body}) + b"\n")


def floor(source: Path, folder: Path) -> None:
    """The least that has to be done."""
    with source.open("rb") as file, (folder / "images").open("wb") as images:
        for line in file:
            url = json.loads(line)["body"]["messages"][0]["content"][1]["image_url"]["url"]
            data = base64.b64decode(url.partition(",")[2])
            hashlib.sha256(data).hexdigest()
            images.write(data)
        images.flush()
        os.fsync(images.fileno())


def check(source: Path, folder: Path) -> None:
    """Check the file as upkeep does when nobody else has work."""
    database = Database(f"sqlite:///{folder}/db")
    migrate(database)
    store = FolderStore(folder / "blobs")
    with database.transaction() as transaction:
        sessions.offer(transaction, CARD)
        owner_id = owners.get_or_create(transaction, "bench").id
    with source.open("rb") as file:
        store.put(file_key(owner_id, "file-1"), file)
    new = NewFile("file-1", owner_id, "in.jsonl", "batch", source.stat().st_size)
    with database.transaction() as transaction:
        files.add(transaction, new)
        batch = batches.create_once(
            transaction, NewBatch(owner_id, "file-1", ENDPOINT, "24h", 86_400), again=False
        )
    checks = BatchChecks(database, store, SubmissionSettings(), OwnerLimits())
    began = time.perf_counter()
    for _ in checks.check(batch):
        pass
    took = time.perf_counter() - began
    with database.snapshot() as transaction:
        status = batches.get(transaction, owner_id, batch.id).status
    database.dispose()
    assert status == "in_progress", status
    (folder / "took").write_text(str(took))


def _timed(work: Callable[[Path, Path], None], source: Path) -> tuple[float, float]:
    """Seconds and peak MiB of a process that does it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        context = multiprocessing.get_context("spawn")
        peak = context.Value("d", 0.0)
        process = context.Process(target=_run, args=(work, source, folder, peak))
        process.start()
        process.join()
        assert process.exitcode == 0
        return float((folder / "took").read_text()), peak.value


def _run(work: Callable[[Path, Path], None], source: Path, folder: Path, peak: object) -> None:
    began = time.perf_counter()
    work(source, folder)
    if not (folder / "took").exists():
        (folder / "took").write_text(str(time.perf_counter() - began))
    peak.value = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # type: ignore[attr-defined]


def main() -> None:
    """Measure, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        tenth, source = Path(name, "tenth"), Path(name, "whole")
        write_input(tenth, asked.lines // 10)
        write_input(source, asked.lines)
        _, small = _timed(check, tenth)
        ratios, peaks = [], []
        for _ in range(asked.rounds):
            least, _ = _timed(floor, source)
            took, peak = _timed(check, source)
            ratios.append(took / least)
            peaks.append(peak / small)
    print(f"{asked.lines} lines: check / floor {spread(ratios)}")
    print(f"peak memory / that of a tenth of the lines {spread(peaks)}")


if __name__ == "__main__":
    main()
