"""More than a thousand malformed and hostile files, each through a real child."""

import io
import random
import struct
import zlib
from collections import Counter
from collections.abc import Iterator

import pytest
from PIL import Image

from db.images.known_images import OK
from db.vocabulary.errors import CheckDied
from tests import pictures
from workers import images
from workers.intake.check import Checkers
from workers.settings import IntakeSettings

OWNER = 1
#: Resident memory that a child may come to while it checks them all.
MAX_BYTES = 700 * 2**20
CODES = {OK, "image_unreadable", "image_too_large"}


@pytest.fixture(scope="module")
def checkers() -> Iterator[Checkers]:
    made = Checkers(IntakeSettings(intake_children=1, check_seconds=10.0))
    yield made
    made.close()


def seeds() -> dict[str, bytes]:
    """A good file of every format that is accepted."""
    rng = random.Random(1)
    noise = Image.frombytes("RGB", (64, 48), rng.randbytes(64 * 48 * 3))
    made = {}
    for form in images.FORMATS:
        buffer = io.BytesIO()
        noise.save(buffer, form)
        made[form] = buffer.getvalue()
    return made


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The file with some bytes changed, cut out, doubled or cut off."""
    broken = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(broken))
        match rng.randrange(5):
            case 0:
                broken[at] = rng.randrange(256)
            case 1:
                broken[at : at + 4] = rng.choice([b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff"])
            case 2:
                del broken[at : at + rng.randint(1, 64)]
            case 3:
                broken[at:at] = broken[max(0, at - 64) : at]
            case _:
                del broken[max(1, at) :]
        if not broken:
            broken = bytearray(b"\x00")
    return bytes(broken)


def made_by_hand() -> dict[str, bytes]:
    """What somebody would send who means harm."""
    good = seeds()

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    def png(width: int, height: int, data: bytes, *extra: bytes) -> bytes:
        header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
        parts = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", data), chunk(b"IEND", b"")]
        return b"\x89PNG\r\n\x1a\n" + b"".join(parts)

    bomb = zlib.compress(b"\0" * 50_000_000, 9)
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 80_000_000, 9))
    script = b"<script>alert(1)</script><?php system($_GET[0]); ?>"
    found = {
        "50,000 x 50,000 pixels": png(50_000, 50_000, bomb),
        "nothing wide": png(0, 10, b""),
        "as wide as can be": png(2**31 - 1, 1, b""),
        "a line": png(50_000, 1, zlib.compress(b"\0" * 50_001)),
        "a text that explodes": png(4, 4, zlib.compress(b"\0" * 20), text),
        "a body that explodes": png(4, 4, bomb),
        "a web page": b"<!doctype html>" + script,
        "a vector drawing": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run",
        "PDF": b"%PDF-1.7\n1 0 obj<<>>endobj",
        "an archive": b"PK\x03\x04" + b"\0" * 200,
        "a program": b"\x7fELF" + b"\0" * 200,
        "nothing": b"",
        "a byte": b"\xff",
    }
    for form, data in good.items():
        found[f"{form} and a script"] = data + script
        found[f"{form} and an archive"] = data + b"PK\x03\x04" + b"\0" * 99
        found[f"{form} twice"] = data + data
        found[f"a script and {form}"] = script + data
    return found


def memory_bytes(checkers: Checkers) -> int:
    """Resident memory of the child."""
    [child] = list(checkers.idle.queue)
    with open(f"/proc/{child.process.pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_every_broken_or_hostile_file_gets_a_check_result_and_harms_no_other(
    checkers: Checkers,
) -> None:
    rng = random.Random(20261121)
    files = {
        f"{form} {number}": mutated(data, rng)
        for form, data in seeds().items()
        for number in range(170)
    }
    files |= made_by_hand()
    found: Counter[str] = Counter()

    for name, data in files.items():
        try:
            verdict = checkers.check(OWNER, data)
        except CheckDied:
            found["child died"] += 1
            continue
        assert verdict.code in CODES, name
        assert verdict.code == OK or verdict.message, name
        found[verdict.code] += 1

    assert len(files) >= 1_000
    assert sum(found.values()) == len(files)
    assert found["image_unreadable"] > 300
    assert found["child died"] == 0, found
    assert memory_bytes(checkers) < MAX_BYTES
    assert checkers.check(OWNER, pictures.plain()).code == OK


def test_what_was_hidden_behind_an_image_is_in_no_pixel(checkers: Checkers) -> None:
    """A polyglot is an image to us, and we hand on pixels only."""
    data = seeds()["JPEG"]

    assert images.decode(data + b"PK\x03\x04<script>").tobytes() == images.decode(data).tobytes()


@pytest.mark.parametrize("name", ["photo.gif", "photo.pdf", "photo"])
def test_a_wrong_name_changes_nothing(checkers: Checkers, name: str) -> None:
    """Nobody looks at names: the first bytes say what it is."""
    assert checkers.check(OWNER, seeds()["PNG"]).format == "PNG", name
