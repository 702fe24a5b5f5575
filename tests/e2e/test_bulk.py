"""The command line on the whole service: every format, every place, buckets and folders."""

import io
import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pillow_heif
from PIL import Image

from db.blobs.s3 import s3_client
from db.settings import StorageSettings
from tests.e2e.conftest import Env, Start
from tests.servers import PATIENCE_SECONDS

FORMATS = ("png", "jpg", "webp", "gif", "avif", "heic")


def idefiq(url: str, *words: object, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run the command as a user does, in a folder."""
    command = [sys.executable, "-m", "idefiq", *map(str, words), "--url", url]
    env = {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PATH": "/usr/bin:/bin",
        "XDG_STATE_HOME": os.environ["XDG_STATE_HOME"],  # noqa: TID251 - for the process
    }
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )


def draw(folder: Path) -> None:
    """A picture of every format, of its own size, and two that are none."""
    pillow_heif.register_heif_opener()
    for number, form in enumerate(FORMATS):
        picture = Image.new("RGB", (40 + number, 30), "red")
        picture.save(folder / f"{form}.{form}", "HEIF" if form == "heic" else None)
    (folder / "torn.jpg").write_bytes((folder / "jpg.jpg").read_bytes()[:200])
    (folder / "text.png").write_text("no picture at all")


def test_every_format_is_answered_and_what_cannot_be_read_is_listed(
    surroundings: Env, start: Start, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    draw(tmp_path / "in")

    with start("echo", surroundings) as (stack, _):
        done = idefiq(stack.url, "caption", "in", "--out", "out.jsonl", folder=tmp_path)

    rows = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    found: dict[str, Any] = {row["file"]: row for row in rows}
    assert done.returncode == 1
    for number, form in enumerate(FORMATS):
        assert f"{40 + number}x30" in found[f"in/{form}.{form}"]["answer"]
    for name in ("torn.jpg", "text.png"):
        assert found[f"in/{name}"]["answer"] is None
        assert f"failed: in/{name}: " in done.stderr
    assert "2 of 8 images failed" in done.stderr


def test_the_images_of_a_bucket_are_listed_and_answered_by_the_service(
    real: Env, start: Start, tmp_path: Path
) -> None:
    bucket = f"photos-{secrets.token_hex(4)}"
    settings = StorageSettings.model_validate(
        {name.removeprefix("IDEFIQ_").lower(): value for name, value in real.items()}
    )
    client: Any = s3_client(settings)
    client.create_bucket(Bucket=bucket)
    for number in range(25):
        data = io.BytesIO()
        Image.new("RGB", (8 + number, 8), "blue").save(data, "PNG")
        data.seek(0)
        client.upload_fileobj(data, bucket, f"2026/{number:02}.png")
    client.upload_fileobj(io.BytesIO(b"nope"), bucket, "2026/bad.png")

    with start("echo", real) as (stack, _):
        refused = idefiq(stack.url, "caption", f"s3://{bucket}/", folder=tmp_path)
        [api] = [service for service in stack.services if service.name == "api"]
        subprocess.run(
            [sys.executable, "-m", "api", "grant", "local", f"s3://{bucket}/2026/"],
            env=api.env,
            cwd=Path(__file__).parents[2],
            check=True,
        )
        source = f"s3://{bucket}/2026/"
        done = idefiq(stack.url, "caption", source, "--out", "out.jsonl", folder=tmp_path)
        again = idefiq(stack.url, "caption", source, "--out", "out.jsonl", folder=tmp_path)
        jobs = idefiq(stack.url, "jobs", "--json", folder=tmp_path).stdout.splitlines()

    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    answers = {row["file"]: row["answer"] for row in rows}
    assert "not granted" in refused.stderr
    assert len(answers) == 26
    assert "20x8" in str(answers[f"{source}12.png"])
    assert answers[f"{source}bad.png"] is None
    assert [done.returncode, again.returncode] == [1, 1]
    assert len(jobs) == 1
