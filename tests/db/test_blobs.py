"""Blob stores: one contract for a folder and for a real S3 store."""

import io
import secrets
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from db.blobs.folder import FolderStore
from db.blobs.opening import open_store
from db.blobs.s3 import S3Store
from db.blobs.store import BlobStore, image_key
from db.settings import StorageSettings
from db.vocabulary.errors import NotFound, StorageError
from tests import servers


def s3_settings(endpoint: str, bucket: str = "blobs") -> StorageSettings:
    return StorageSettings(
        store="s3",
        s3_bucket=bucket,
        s3_prefix="idefiq/",
        s3_endpoint=endpoint,
        s3_access_key=servers.SWIFT_ACCESS_KEY,
        s3_secret_key=servers.SWIFT_SECRET_KEY,
    )


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "folder":
        return FolderStore(tmp_path)
    settings = s3_settings(request.getfixturevalue("s3_endpoint"), f"b{secrets.token_hex(6)}")
    made = open_store(settings)
    made.prepare()
    made.prepare()  # as every start of a service does
    return made


def test_what_is_put_is_got_whole_and_from_an_offset(store: BlobStore) -> None:
    key = image_key(1, "ab" * 32)
    store.put(key, io.BytesIO(b"0123456789"))

    with store.open(key, offset=4) as stream:
        rest = stream.read()

    assert (store.get(key), rest) == (b"0123456789", b"456789")


def test_a_long_blob_is_read_line_by_line_from_any_of_its_bytes_on(store: BlobStore) -> None:
    lines = [b"%d %s\n" % (n, b"x" * 100_000) for n in range(100)]
    store.put("1/spool/a.jsonl", io.BytesIO(b"".join(lines)))

    with store.open("1/spool/a.jsonl", offset=len(lines[0]) + 1) as stream:
        found = list(stream)
    with store.open("1/spool/a.jsonl", offset=sum(map(len, lines))) as stream:
        rest = stream.read()

    assert found == [lines[1][1:], *lines[2:]]
    assert rest == b""


@pytest.mark.parametrize("breaks", [2, 3])
def test_a_piece_that_breaks_off_is_asked_for_three_times(
    breaks: int, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(s3_settings(s3_endpoint, f"b{secrets.token_hex(6)}"))
    assert isinstance(store, S3Store)
    store.prepare()
    store.put("1/files/a", io.BytesIO(b"0123456789"))
    left, ask = list(range(breaks)), store.client.get_object

    def broken(**asked: Any) -> Any:
        found = ask(**asked)
        if left:
            left.pop()
            found["Body"].close()  # as if the connection had gone
        return found

    monkeypatch.setattr(store.client, "get_object", broken)

    with store.open("1/files/a", 3) as stream:
        if breaks < 3:
            assert stream.read() == b"3456789"
        else:
            with pytest.raises(StorageError):
                stream.read()


def test_putting_again_replaces_and_deleting_twice_is_no_error(store: BlobStore) -> None:
    store.put("1/spool/a.jsonl", io.BytesIO(b"old"))
    store.put("1/spool/a.jsonl", io.BytesIO(b"new"))
    assert store.get("1/spool/a.jsonl") == b"new"

    store.delete("1/spool/a.jsonl")
    store.delete("1/spool/a.jsonl")

    with pytest.raises(NotFound):
        store.get("1/spool/a.jsonl")
    with pytest.raises(NotFound):
        store.open("1/spool/a.jsonl")


def test_all_blobs_are_listed_with_size_and_age(store: BlobStore) -> None:
    store.put_many({f"7/listed/{n}": io.BytesIO(b"x" * n) for n in range(12)})

    found = [one for page in store.pages() for one in page if one.key.startswith("7/listed/")]

    assert {one.key: one.size_bytes for one in found} == {f"7/listed/{n}": n for n in range(12)}
    assert all(-60 < one.age_seconds < 3_600 for one in found)


def test_many_are_put_at_once_and_none_if_one_cannot_be_read(tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "broken")

    store = FolderStore(tmp_path)
    sources: dict[str, io.BytesIO] = {f"a/{n}": io.BytesIO(b"x") for n in range(20)}

    with pytest.raises(StorageError):
        store.put_many({**sources, "b": Broken()})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    for source in sources.values():
        source.seek(0)
    store.put_many(sources)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 20


def test_a_folder_keeps_no_half_written_blob(tmp_path: Path) -> None:
    class Breaks(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise ConnectionResetError("the client went away")

    store = FolderStore(tmp_path)

    with pytest.raises(StorageError):
        store.put("1/images/a", Breaks())

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_presigned_url_takes_an_upload_where_the_store_can(
    s3_endpoint: str, tmp_path: Path
) -> None:
    settings = s3_settings(s3_endpoint, "uploads")
    store = S3Store(settings)
    store.client.create_bucket(Bucket="uploads")

    url = store.presign_put("1/images/x", 60, 5)
    assert url
    longer = urllib.request.Request(url, data=b"more bytes", method="PUT")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(longer)
    request = urllib.request.Request(url, data=b"bytes", method="PUT")
    urllib.request.urlopen(request).close()

    assert store.get("1/images/x") == b"bytes"
    assert FolderStore(tmp_path).presign_put("1/images/x", 60, 5) is None


def test_a_store_that_is_away_is_a_storage_error() -> None:
    settings = s3_settings(f"http://127.0.0.1:{servers.free_port()}")

    with pytest.raises(StorageError, match="unavailable"):
        S3Store(settings).get("1/images/x")


def test_a_bucket_that_does_not_exist_is_a_storage_error(s3_endpoint: str) -> None:
    with pytest.raises(StorageError, match="NoSuchBucket"):
        S3Store(s3_settings(s3_endpoint, "nowhere")).put("1/x", io.BytesIO(b""))
