"""What the service runs on while it is tormented: each behind a link that can be cut."""

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
from pydantic import SecretStr
from sqlalchemy import make_url

from db.blobs.s3 import s3_client
from db.settings import StorageSettings
from tests import servers
from tests.faults.links import Link, link


@dataclass
class Surroundings:
    """Servers, links to them, and the settings of a service that uses them.

    Attributes:
        env: Settings of the service.
        direct_url: The database, past the link.
    """

    name: str
    env: dict[str, str]
    redis: servers.RedisServer
    direct_url: str
    redis_link: Link
    database_link: Link | None = None
    store_link: Link | None = None

    @property
    def links(self) -> list[Link]:
        """All there are."""
        found = (self.redis_link, self.database_link, self.store_link)
        return [one for one in found if one]

    def terminate_backends(self) -> None:
        """End every connection of Postgres from its other side."""
        if not self.database_link:
            return
        with psycopg.connect(self.direct_url.replace("+psycopg", ""), autocommit=True) as own:
            own.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )


@contextlib.contextmanager
def embedded(folder: Path) -> Iterator[Surroundings]:
    """SQLite, a folder and Redis."""
    with _redis(folder) as (redis, redis_link):
        url = f"sqlite:///{folder}/idefiq.db"
        env = {
            "IDEFIQ_DATABASE_URL": url,
            "IDEFIQ_STORE_FOLDER": str(folder / "blobs"),
            "IDEFIQ_REDIS_URL": f"redis://127.0.0.1:{redis_link.port}/0",
        }
        yield Surroundings("embedded", env, redis, url, redis_link)


@contextlib.contextmanager
def real(folder: Path, cluster_url: str, s3_endpoint: str) -> Iterator[Surroundings]:
    """A database of a Postgres cluster, a bucket of an S3 store, and Redis."""
    name = f"faults_{secrets.token_hex(4)}"
    with psycopg.connect(cluster_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    parsed = make_url(cluster_url).set(database=name)
    s3_port = int(s3_endpoint.rpartition(":")[2].strip("/"))
    with (
        _redis(folder) as (redis, redis_link),
        link(int(parsed.port or 5432)) as database_link,
        link(s3_port) as store_link,
    ):
        behind = parsed.set(port=database_link.port)
        bucket = name.replace("_", "-")
        settings = StorageSettings(
            s3_endpoint=s3_endpoint,
            s3_access_key=servers.SWIFT_ACCESS_KEY,
            s3_secret_key=SecretStr(servers.SWIFT_SECRET_KEY),
        )
        s3_client(settings).create_bucket(Bucket=bucket)
        env = {
            "IDEFIQ_DATABASE_URL": behind.render_as_string(hide_password=False),
            "IDEFIQ_STORE": "s3",
            "IDEFIQ_S3_BUCKET": bucket,
            "IDEFIQ_S3_ENDPOINT": f"http://127.0.0.1:{store_link.port}",
            "IDEFIQ_REDIS_URL": f"redis://127.0.0.1:{redis_link.port}/0",
            "IDEFIQ_S3_ACCESS_KEY": servers.SWIFT_ACCESS_KEY,
            "IDEFIQ_S3_SECRET_KEY": servers.SWIFT_SECRET_KEY,
        }
        direct = parsed.render_as_string(hide_password=False)
        yield Surroundings("real", env, redis, direct, redis_link, database_link, store_link)


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[tuple[servers.RedisServer, Link]]:
    folder.mkdir(parents=True, exist_ok=True)
    server = servers.RedisServer(folder)
    server.start()
    with link(server.port) as redis_link:
        try:
            yield server, redis_link
        finally:
            server.kill()
