"""Images within requests: base64 as programs write it."""

import base64
import hashlib
import textwrap
from pathlib import Path
from typing import cast
from urllib.parse import quote

import pytest

from db.blobs.folder import FolderStore
from db.queue.data_images import DataImages
from db.sql.database import Database
from db.vocabulary.errors import RequestError
from db.vocabulary.limits import OwnerLimits
from db.vocabulary.references import check_reference

#: Bytes whose base64 has both characters that differ between alphabets, and padding.
DATA = bytes([0xFB, 0xEF, 0xFF]) * 40 + b"x"
WRITTEN = base64.b64encode(DATA).decode()


def stored(reference: str, folder: Path) -> str:
    nowhere = cast("Database", None)  # the image is only gathered
    images = DataImages(nowhere, FolderStore(folder), 1, OwnerLimits(), 10_000)
    return images.reference(check_reference(reference), "images.0")


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(WRITTEN, id="as it should be"),
        pytest.param(WRITTEN.rstrip("="), id="without padding"),
        pytest.param(base64.urlsafe_b64encode(DATA).decode(), id="of the alphabet for URLs"),
        pytest.param("\r\n".join(textwrap.wrap(WRITTEN, 76)), id="wrapped"),
        pytest.param(quote(WRITTEN, safe=""), id="escaped"),
    ],
)
@pytest.mark.parametrize("kind", ["image/png", "", "application/octet-stream", "IMAGE/JPG;x=1"])
def test_an_image_in_base64_is_its_bytes_however_it_is_written(
    kind: str, written: str, tmp_path: Path
) -> None:
    found = stored(f"data:{kind};base64,{written}", tmp_path)

    assert found == f"blob:{hashlib.sha256(DATA).hexdigest()}"


@pytest.mark.parametrize("written", ["A", "AAAAA", "A=B", "%41", "AA%3"])
def test_what_is_no_base64_is_told_of_its_field(written: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="not base64") as caught:
        stored(f"data:image/png;base64,{written}", tmp_path)

    assert caught.value.field == "images.0"
