"""`idefiq doctor`: what is there, what is wrong, and what to do about it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
import redis

from tests import servers


def doctor(tmp_path: Path, *words: str, **settings: str) -> dict[str, list[dict[str, str]]]:
    """What it finds, by name."""
    env = {
        **os.environ,  # noqa: TID251 - for the process
        "IDEFIQ_STORE_FOLDER": str(tmp_path / "blobs"),
        "IDEFIQ_DATABASE_URL": f"sqlite:///{tmp_path}/idefiq.db",
        "IDEFIQ_URL": "http://127.0.0.1:1",
        "IDEFIQ_MODEL": "echo",
        **settings,
    }
    command = [sys.executable, "-m", "idefiq", "doctor", "--json", *words]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    found: dict[str, list[dict[str, str]]] = {}
    for line in done.stdout.splitlines():
        finding = json.loads(line)
        found.setdefault(finding["name"], []).append(finding)
    is_wrong = any(one["state"] == "wrong" for some in found.values() for one in some)
    assert done.returncode == int(is_wrong), done.stderr
    return found


def test_a_healthy_service_is_reported_as_ok(
    http_sqlite: httpx2.Client, sqlite_url: str, redis_server: servers.RedisServer, tmp_path: Path
) -> None:
    (tmp_path / "blobs").mkdir(exist_ok=True)
    found = doctor(
        tmp_path,
        IDEFIQ_DATABASE_URL=sqlite_url,
        IDEFIQ_REDIS_URL=redis_server.url,
        IDEFIQ_URL=str(http_sqlite.base_url),
        IDEFIQ_MODEL="demo",
    )

    assert {
        name: [one["state"] for one in found[name]]
        for name in ("idefiq", "torch", "memory", "database", "redis server", "store", "model")
    } == {
        name: ["ok"]
        for name in ("idefiq", "torch", "memory", "database", "redis server", "store", "model")
    }
    # Nobody runs a model there.
    assert "answers 503" in found["service"][0]["text"]


def test_a_missing_part_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    found = doctor(
        tmp_path,
        IDEFIQ_REDIS_URL="redis://:secret@127.0.0.1:1/0",
        IDEFIQ_MODEL="team/none",
        HF_HUB_CACHE=str(tmp_path / "cache"),
    )

    remedies = {
        name: found[name][0]["remedy"] for name in ("database", "redis server", "store", "model")
    }
    assert "`idefiq migrate` makes it" in remedies["database"]
    assert "latency, no loss" in remedies["redis server"]
    assert "secret" not in found["redis server"][0]["text"]
    assert remedies["store"] == "`idefiq up` makes it"
    assert remedies["model"] == "idefiq models pull team/none"
    assert "`idefiq up` starts it" in found["service"][0]["remedy"]
    # Looking leaves nothing behind.
    assert not (tmp_path / "blobs").exists()
    assert not (tmp_path / "idefiq.db").exists()


@pytest.mark.parametrize(
    ("settings", "name", "said"),
    [
        (
            {"IDEFIQ_DATABASE_URL": "postgresql+psycopg://x:secret@127.0.0.1:1/x"},
            "database",
            "x:***@",
        ),
        ({"IDEFIQ_DEVICE": "cuda", "IDEFIQ_MODEL": "demo"}, "model", "no device 'cuda'"),
        (
            {
                "IDEFIQ_STORE": "s3",
                "IDEFIQ_S3_BUCKET": "b",
                "IDEFIQ_S3_ENDPOINT": "http://127.0.0.1:1",
            },
            "store",
            "s3://b",
        ),
    ],
)
def test_what_is_wrong_fails(
    settings: dict[str, str], name: str, said: str, tmp_path: Path
) -> None:
    found = doctor(tmp_path, **settings)

    wrong = [one for one in found[name] if one["state"] == "wrong"]
    assert wrong
    assert said in wrong[0]["text"]
    assert "secret" not in wrong[0]["text"]
    assert wrong[0]["remedy"]


def test_a_redis_that_refuses_writes_is_reported(
    redis_server: servers.RedisServer, tmp_path: Path
) -> None:
    with redis.Redis(port=redis_server.port) as client:
        client.replicaof("127.0.0.1", "1")

    found = doctor(tmp_path, IDEFIQ_REDIS_URL=redis_server.url)

    assert "read only replica" in found["redis server"][0]["text"]


def test_settings_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    env = {**os.environ, "IDEFIQ_DEVICE": "gpu"}  # noqa: TID251 - for the process
    command = [sys.executable, "-m", "idefiq", "doctor"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)

    assert done.returncode == 78
    assert "IDEFIQ_DEVICE" in done.stderr
